"""The optimizer and the learning rate schedule of a configuration."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers.norm import GroupNorm, LayerNorm
from detexport.solver.lr_scheduler import LRMultiplier, Multiplier, WarmupParamScheduler, cosine, multi_step

NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, GroupNorm, LayerNorm,
)  # fmt: skip


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return the parameters of a model as groups with options for an optimizer.

    Args:
        model: parameters that are not trained are left out.
        base_lr: learning rate; None for the optimizer's.
        weight_decay: None for the optimizer's.
        weight_decay_norm: of the parameters of normalizations; None for ``weight_decay``.
        bias_lr_factor: factor of the learning rate of biases.
        weight_decay_bias: of biases; None for ``weight_decay``.
        lr_factor_func: name of a parameter -> factor of its learning rate.
        overrides: options by the last part of a parameter's name.

    Returns:
        Groups of parameters with equal options, in the order of the model.

    Raises:
        ConfigError: a factor is given without ``base_lr``.
    """
    by_name: dict[str, dict[str, float]] = {name: dict(values) for name, values in (overrides or {}).items()}
    if bias_lr_factor not in (None, 1.0):
        _need_base_lr(base_lr)
        by_name.setdefault("bias", {})["lr"] = base_lr * bias_lr_factor  # type: ignore[operator]
    if weight_decay_bias is not None:
        by_name.setdefault("bias", {})["weight_decay"] = weight_decay_bias
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            options = {"lr": base_lr, "weight_decay": weight_decay}
            if isinstance(module, NORMS) and weight_decay_norm is not None:
                options["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                _need_base_lr(base_lr)
                options["lr"] *= lr_factor_func(f"{prefix}.{name}" if prefix else name)  # type: ignore[operator]
            options |= by_name.get(name, {})
            given = {key: value for key, value in options.items() if value is not None}
            group = groups.setdefault(tuple(sorted(given.items())), {"params": [], **given})
            group["params"].append(parameter)
    return list(groups.values())


def _need_base_lr(base_lr: float | None) -> None:
    if base_lr is None:
        raise ConfigError(
            "a factor of the learning rate needs base_lr",
            got="base_lr=None",
            expected="the base learning rate",
            remedy="pass base_lr",
        )


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Build the SGD optimizer of ``cfg.SOLVER``, with its clipping of gradients.

    Raises:
        ConfigError: the kind of clipping is unknown.
    """
    node = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay=node.WEIGHT_DECAY,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
    )
    optimizer = SGD(groups, lr=node.BASE_LR, momentum=node.MOMENTUM, nesterov=node.NESTEROV)
    if node.CLIP_GRADIENTS.ENABLED:
        clip = _clipping(node.CLIP_GRADIENTS)
        optimizer.register_step_pre_hook(lambda *_: clip(optimizer))
    return optimizer


def _clipping(node: CfgNode) -> Callable[[Optimizer], None]:
    """Return the clipping of each parameter's gradient before a step."""
    if node.CLIP_TYPE not in ("value", "norm"):
        raise ConfigError(
            "unknown clipping",
            got=f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: {node.CLIP_TYPE}",
            expected="value or norm",
            remedy="correct SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        )

    def clip(optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if node.CLIP_TYPE == "value":
                    torch.nn.utils.clip_grad_value_(parameter, node.CLIP_VALUE)
                else:
                    torch.nn.utils.clip_grad_norm_(parameter, node.CLIP_VALUE, node.NORM_TYPE)

    return clip


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """Build the learning rate schedule ``cfg.SOLVER.LR_SCHEDULER_NAME``.

    Raises:
        ConfigError: its name is unknown.
    """
    node = cfg.SOLVER
    schedule: Multiplier
    if node.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in node.STEPS if step <= node.MAX_ITER]
        schedule = multi_step([step / node.MAX_ITER for step in steps], node.GAMMA)
    elif node.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule = cosine(node.BASE_LR_END / node.BASE_LR)
    else:
        raise ConfigError(
            "unknown schedule",
            got=f"SOLVER.LR_SCHEDULER_NAME: {node.LR_SCHEDULER_NAME}",
            expected="WarmupMultiStepLR or WarmupCosineLR",
            remedy="correct SOLVER.LR_SCHEDULER_NAME",
        )
    warmup_length = min(node.WARMUP_ITERS / node.MAX_ITER, 1.0)
    warmup = WarmupParamScheduler(
        schedule, node.WARMUP_FACTOR, warmup_length, node.WARMUP_METHOD, node.RESCALE_INTERVAL
    )
    return LRMultiplier(optimizer, warmup, node.MAX_ITER)
