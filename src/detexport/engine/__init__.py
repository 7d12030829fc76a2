"""Training, evaluation over a data set, and prediction on single images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detexport.engine.defaults import DefaultPredictor, default_argument_parser, default_setup

__all__ = ["DefaultPredictor", "default_argument_parser", "default_setup"]


def __getattr__(name: str) -> Any:
    # Imported on access, since it imports torch.
    if name in __all__:
        return getattr(import_module(f"{__name__}.defaults"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
