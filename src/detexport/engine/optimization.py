"""Optimizer, learning rate and gradient clipping of a training."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from detexport.engine.training_settings import TrainingSettings
from detexport.layers.norm import LayerNorm

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, LayerNorm)


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimizer of a model's trainable parameters.

    Each group has ``peak``, its learning rate at the peak of the schedule.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for options, parameter in _parameters(model, settings):
        groups.setdefault(options, []).append(parameter)
    parameters = [
        {"params": params, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters)
    return torch.optim.SGD(parameters, momentum=settings.momentum, nesterov=settings.nesterov)


def _parameters(
    model: nn.Module, settings: TrainingSettings
) -> Iterator[tuple[tuple[float, float], nn.Parameter]]:
    """Yield each trainable parameter once, with its learning rate and weight decay."""
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                rate, decay = settings.learning_rate, settings.weight_decay
                if isinstance(module, NORMS):
                    decay = settings.weight_decay_norm
                elif name == "bias":
                    rate, decay = rate * settings.bias_factor, settings.weight_decay_bias
                elif parameter.dim() <= 1:
                    decay = settings.weight_decay_norm
                yield (rate, decay), parameter


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, settings: TrainingSettings) -> float:
    """Set the learning rates of a step; return that of the first group."""
    factor = learning_rate_factor(step, settings)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return float(optimizer.param_groups[0]["lr"])


def learning_rate_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate at a step as a fraction of the peak."""
    warmup = settings.warmup_iterations
    if settings.schedule == "cosine":
        if step < warmup:
            return (step + 1) / warmup
        return _cosine(step - warmup, max(1, settings.iterations - warmup))
    if step >= warmup:
        return _decayed(step, settings)
    # As fvcore's WarmupParamScheduler: from a fraction of the first value to the value after the warm-up.
    first = settings.warmup_factor * _decayed(0, settings)
    if settings.warmup_method == "constant":
        return first
    return first + (_decayed(warmup, settings) - first) * step / warmup


def _decayed(step: int, settings: TrainingSettings) -> float:
    if settings.schedule == "WarmupMultiStepLR":
        return float(settings.gamma ** bisect_right(sorted(settings.steps), step))
    final = settings.final_factor
    return final + (1 - final) * _cosine(step, settings.iterations)


def _cosine(step: int, span: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / span))


def clip_gradients(
    fabric: Any, network: nn.Module, optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> None:
    """Limit the gradients as the settings say.

    Args:
        fabric: Lightning's ``Fabric``, which set up ``network`` and ``optimizer``.
        network: the model.
        optimizer: its optimizer.
        settings: the limit.
    """
    if settings.gradient_value is not None:
        fabric.clip_gradients(network, optimizer, clip_val=settings.gradient_value)
    elif settings.gradient_norm is not None:
        fabric.clip_gradients(
            network,
            optimizer,
            max_norm=settings.gradient_norm,
            norm_type=settings.norm_type,
            error_if_nonfinite=False,  # the scaler of float16 skips a step whose gradient overflows
        )
    elif settings.parameter_norm is not None:
        fabric.strategy.precision.unscale_gradients(getattr(optimizer, "optimizer", optimizer))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                nn.utils.clip_grad_norm_(parameter, settings.parameter_norm, settings.norm_type)
