"""Conversions: artifact -> artifact of another format or precision, without the model.

Each conversion has its own module, imported only when it is used.
"""

from detexport.convert.conversion import Conversion, Samples

__all__ = ["Conversion", "Samples"]
