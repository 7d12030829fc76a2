"""Export object detectors, check each artifact's parity with the model, benchmark and register it.

Importing the package alone imports nothing else: every sub-package imports only what it needs.
"""

__version__ = "0.1.0"
