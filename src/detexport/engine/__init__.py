"""Running models over data: training, average precision, and one image at a time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detexport.engine.defaults import DefaultPredictor

__all__ = ["DefaultPredictor"]


def __getattr__(name: str) -> Any:
    # torch is imported with it, when it is asked for.
    if name == "DefaultPredictor":
        return import_module(f"{__name__}.defaults").DefaultPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
