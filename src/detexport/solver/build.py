"""The optimizer and the learning rate schedule of a configuration."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers.norm import GroupNorm, LayerNorm
from detexport.solver.lr_scheduler import LRMultiplier, warmup_schedule

NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, GroupNorm, LayerNorm,
)  # fmt: skip
CLIP_TYPES = ("value", "norm", "full_model")
"""Kinds of clipping: each element of the gradient, the norm of each parameter's, or that of the whole."""


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
    *,
    weight_decay_vector: float | None = None,
) -> list[dict[str, Any]]:
    """Return the parameters of a model as groups with options for an optimizer.

    As in detectron2, the options of biases apply to the biases of normalizations too, if they are given.

    Args:
        model: parameters that are not trained are left out.
        base_lr: learning rate; None for the optimizer's.
        weight_decay: None for the optimizer's.
        weight_decay_norm: of the parameters of normalizations; None for ``weight_decay``.
        bias_lr_factor: factor of the learning rate of biases.
        weight_decay_bias: of biases; None for ``weight_decay``.
        lr_factor_func: name of a parameter -> factor of its learning rate.
        overrides: options by the last part of a parameter's name.
        weight_decay_vector: of vectors that are neither biases nor of normalizations; None for
            ``weight_decay``.

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
            special = weight_decay_norm if isinstance(module, NORMS) else None
            if not isinstance(module, NORMS) and parameter.dim() <= 1 and name != "bias":
                special = weight_decay_vector
            if special is not None:
                options["weight_decay"] = special
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
    clip = node.CLIP_GRADIENTS
    if clip.ENABLED:
        check_clip_type(clip.CLIP_TYPE)
        limit = (clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)
        optimizer.register_step_pre_hook(lambda *_: clip_gradients(optimizer, *limit))
    return optimizer


def clip_gradients(optimizer: Optimizer, clip_type: str, clip_value: float, norm_type: float = 2.0) -> None:
    """Limit the gradients of an optimizer's parameters, in place.

    Args:
        optimizer: its parameters have gradients, which are not scaled.
        clip_type: see ``CLIP_TYPES``.
        clip_value: the limit.
        norm_type: p of the norms.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if clip_type == "value":
        nn.utils.clip_grad_value_(parameters, clip_value)
    elif clip_type == "full_model":
        nn.utils.clip_grad_norm_(parameters, clip_value, norm_type)
    else:
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, clip_value, norm_type)


def check_clip_type(clip_type: str) -> None:
    """Raise ``ConfigError`` if a kind of clipping is unknown."""
    if clip_type not in CLIP_TYPES:
        raise ConfigError(
            "unknown clipping",
            got=f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: {clip_type}",
            expected=" or ".join(CLIP_TYPES),
            remedy="correct SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        )


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """Build the learning rate schedule ``cfg.SOLVER.LR_SCHEDULER_NAME``.

    Raises:
        ConfigError: its name is unknown.
    """
    node = cfg.SOLVER
    schedule = warmup_schedule(
        node.LR_SCHEDULER_NAME,
        node.MAX_ITER,
        steps=node.STEPS,
        gamma=node.GAMMA,
        final_factor=node.BASE_LR_END / node.BASE_LR,
        warmup_iterations=node.WARMUP_ITERS,
        warmup_factor=node.WARMUP_FACTOR,
        warmup_method=node.WARMUP_METHOD,
        rescale_interval=node.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, schedule, node.MAX_ITER)
