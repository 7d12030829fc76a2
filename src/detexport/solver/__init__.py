"""Optimizers and learning rate schedules as ``cfg.SOLVER`` configures them."""

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.solver.build import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from detexport.solver.lr_scheduler import (
    LRMultiplier,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
)

__all__ = [
    "LRMultiplier",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
]
