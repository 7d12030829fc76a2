"""Export object detectors, validate each artifact against the model, measure and register it.

``load``, ``export`` and ``validate`` are the whole way from a checkpoint to detections. Importing the package
imports nothing: these names and each sub-package import what they need when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detexport.predictions.detections import Detections
    from detexport.predictions.detector import Detector
    from detexport.workflows.load_detector import load
    from detexport.workflows.python_api import export, validate

__version__ = "0.1.0"

__all__ = ["Detections", "Detector", "__version__", "export", "load", "validate"]

_MODULES = {
    "Detections": "predictions.detections",
    "Detector": "predictions.detector",
    "load": "workflows.load_detector",
    "validate": "workflows.python_api",
}


def __getattr__(name: str) -> Any:
    if name == "export":  # the package, which is the function, too
        return import_module(f"{__name__}.export")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
