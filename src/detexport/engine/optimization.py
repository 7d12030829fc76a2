"""Optimizer, learning rate and gradient clipping of a training: detectron2's, and a plain cosine."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from detexport.engine.training_settings import TrainingSettings
from detexport.solver.build import clip_gradients, get_default_optimizer_params
from detexport.solver.lr_scheduler import warmup_schedule


def build_training_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimizer of a model's trainable parameters.

    Each group has ``peak``, its learning rate at the peak of the schedule.
    """
    groups = get_default_optimizer_params(
        model,
        base_lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        weight_decay_norm=settings.weight_decay_norm,
        bias_lr_factor=settings.bias_factor,
        weight_decay_bias=settings.weight_decay_bias,
        weight_decay_vector=settings.weight_decay_vector,
    )
    parameters = [{**group, "peak": group["lr"]} for group in groups]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters)
    return torch.optim.SGD(parameters, momentum=settings.momentum, nesterov=settings.nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of each group to a fraction of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def build_schedule(settings: TrainingSettings) -> Callable[[int], float]:
    """Return the function from a step to its learning rate as a fraction of the peak."""
    if settings.schedule == "cosine":
        return lambda step: _cosine(step, settings)
    multiplier = warmup_schedule(
        settings.schedule,
        settings.iterations,
        steps=settings.steps,
        gamma=settings.gamma,
        final_factor=settings.final_factor,
        warmup_iterations=settings.warmup_iterations,
        warmup_factor=settings.warmup_factor,
        warmup_method=settings.warmup_method,
    )
    return lambda step: multiplier(step / settings.iterations)


def _cosine(step: int, settings: TrainingSettings) -> float:
    warmup = settings.warmup_iterations
    if step < warmup:
        return (step + 1) / warmup
    span = max(1, settings.iterations - warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / span))


def limit_gradients(fabric: Any, optimizer: torch.optim.Optimizer, settings: TrainingSettings) -> None:
    """Limit the gradients as the settings say.

    Args:
        fabric: Lightning's ``Fabric``, which set up ``optimizer``.
        optimizer: of the model.
        settings: the limit.
    """
    limits = {
        "value": settings.gradient_value,
        "full_model": settings.gradient_norm,
        "norm": settings.parameter_norm,
    }
    for clip_type, limit in limits.items():
        if limit is not None:  # at most one
            # The scaler of float16 skips a step whose gradient overflows.
            fabric.strategy.precision.unscale_gradients(getattr(optimizer, "optimizer", optimizer))
            clip_gradients(optimizer, clip_type, limit, settings.norm_type)
