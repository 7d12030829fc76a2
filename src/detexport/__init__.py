"""Export object detectors, prove that the artifact computes what the model computes, measure and register it.

Importing the package costs nothing: every sub-package imports only what it needs.
"""

__version__ = "0.1.0"
