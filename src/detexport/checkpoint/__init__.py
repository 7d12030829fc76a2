"""Checkpoints: read without executing code, matched to a model by name, and saved atomically."""

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.checkpoint.checkpointer import DetectionCheckpointer, PeriodicCheckpointer
from detexport.checkpoint.download import fetch
from detexport.checkpoint.load import LoadReport, load_weights, match_weights
from detexport.checkpoint.read import (
    Checkpoint,
    digest_state_dict,
    read_checkpoint,
    read_state_dict,
    write_state_dict,
)

__all__ = [
    "Checkpoint",
    "DetectionCheckpointer",
    "LoadReport",
    "PeriodicCheckpointer",
    "digest_state_dict",
    "fetch",
    "load_weights",
    "match_weights",
    "read_checkpoint",
    "read_state_dict",
    "write_state_dict",
]
