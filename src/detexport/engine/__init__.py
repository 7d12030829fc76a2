"""Training, evaluation over a data set, and prediction on single images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detexport.engine.defaults import DefaultPredictor

__all__ = ["DefaultPredictor"]


def __getattr__(name: str) -> Any:
    # Imported on access, since it imports torch.
    if name == "DefaultPredictor":
        return import_module(f"{__name__}.defaults").DefaultPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
