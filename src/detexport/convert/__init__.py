"""Conversions: an artifact -> another one, of another format or precision, without the model.

One module a conversion, imported only when it is used.
"""

from detexport.convert.conversion import Conversion, ConversionTemplate, Samples

__all__ = ["Conversion", "ConversionTemplate", "Samples"]
