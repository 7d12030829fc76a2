"""Training, evaluation over a data set, and prediction on single images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detexport.engine import hooks
    from detexport.engine.default_trainer import DefaultTrainer, default_writers
    from detexport.engine.defaults import DefaultPredictor, default_argument_parser, default_setup
    from detexport.engine.processes import launch
    from detexport.engine.train_loop import (
        AMPTrainer,
        HookBase,
        SimpleTrainer,
        TrainerBase,
        create_ddp_model,
    )

_MODULES = {
    "AMPTrainer": "train_loop",
    "DefaultPredictor": "defaults",
    "DefaultTrainer": "default_trainer",
    "HookBase": "train_loop",
    "SimpleTrainer": "train_loop",
    "TrainerBase": "train_loop",
    "create_ddp_model": "train_loop",
    "default_argument_parser": "defaults",
    "default_setup": "defaults",
    "default_writers": "default_trainer",
    "launch": "processes",
}

__all__ = [
    "AMPTrainer",
    "DefaultPredictor",
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "TrainerBase",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "hooks",
    "launch",
]


def __getattr__(name: str) -> Any:
    # Imported on access, since it imports torch.
    if name == "hooks":
        return import_module(f"{__name__}.hooks")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
