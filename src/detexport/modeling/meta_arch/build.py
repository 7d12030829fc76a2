"""Building of a model from a configuration."""

from collections.abc import Iterator
from typing import Any

import torch

from detexport.config import CfgNode
from detexport.config.cfg import LAZY, all_defaults, check_project_keys, naming_sources
from detexport.config.lazy import build_lazy, lazy_integers
from detexport.config.valid_values import check_values
from detexport.contract import ResizeRule
from detexport.errors import ConfigError, OutOfMemoryError, is_allocation_failure, listed
from detexport.modeling.meta_arch.image_model import ImageModel
from detexport.modeling.meta_arch.instances_model import is_of_a_project
from detexport.modeling.registries import META_ARCH_REGISTRY

SIZES = (
    "CONV_DIM", "CONVS_DIM", "FC_DIM", "NUM_CLASSES", "NUM_GROUPS", "OUT_CHANNELS",
    "POOLER_RESOLUTION", "RES2_OUT_CHANNELS", "STEM_OUT_CHANNELS", "WIDTH_PER_GROUP",
)  # fmt: skip
"""Names of the keys that scale the number of parameters."""
SHOWN_SIZES = 4


def build_model(cfg: CfgNode) -> Any:
    """Build ``cfg.MODEL.META_ARCHITECTURE`` with random parameters on ``cfg.MODEL.DEVICE``.

    Raises:
        ConfigError: a name, an option or its value is not supported, or the device is not on this machine.
        OutOfMemoryError: the parameters do not fit into the device's memory.
    """
    with naming_sources(cfg):
        check_values(cfg, all_defaults())
        check_project_keys(cfg)
        _check_options(cfg)
    try:
        model = _build_lazy(cfg) if LAZY in cfg else META_ARCH_REGISTRY.build(cfg)
        return model.to(torch.device(cfg.MODEL.DEVICE))
    except (RuntimeError, MemoryError) as error:
        if not is_allocation_failure(error):
            raise
        sizes = lazy_integers(cfg) if LAZY in cfg else _sizes(cfg.MODEL, "MODEL")
        largest = sorted(sizes, key=lambda size: size[1], reverse=True)
        raise OutOfMemoryError(
            "there is not enough memory for the parameters of this model",
            got=listed([f"{key}: {value}" for key, value in largest], SHOWN_SIZES),
            expected=f"sizes whose products fit into the memory of {cfg.MODEL.DEVICE}",
            remedy=f"correct {largest[0][0]}" if largest else "choose a smaller model",
        ) from error


def _build_lazy(cfg: CfgNode) -> Any:
    """Build the model of a lazy configuration."""
    model, resize = build_lazy(cfg)
    if not isinstance(model, ImageModel) and not is_of_a_project(model):
        raise ConfigError(
            "the node model of the lazy configuration is not a meta architecture",
            got=type(model).__name__,
            expected="a model such as GeneralizedRCNN",
            remedy="correct _target_ of the node model",
        )
    if resize:
        model.resize = ResizeRule(*resize)
    return model


def _sizes(group: dict[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the keys that scale the number of parameters, with their values."""
    for name, value in group.items():
        if isinstance(value, dict):
            yield from _sizes(value, f"{prefix}.{name}")
        elif name in SIZES and isinstance(value, int):
            yield f"{prefix}.{name}", value


def _check_options(cfg: CfgNode) -> None:
    try:
        torch.device(cfg.MODEL.DEVICE)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            "unknown device",
            got=f"MODEL.DEVICE: {cfg.MODEL.DEVICE!r}",
            expected="cpu, cuda, cuda:1, ...",
            remedy="correct MODEL.DEVICE",
        ) from error
    if str(cfg.MODEL.DEVICE).startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            "the model's device is not on this machine",
            got=f"MODEL.DEVICE: {cfg.MODEL.DEVICE}",
            expected="cpu, where torch finds no CUDA device",
            remedy="set MODEL.DEVICE to cpu",
        )
    if cfg.FLOAT32_PRECISION:
        raise ConfigError(
            "unsupported option",
            got=f"FLOAT32_PRECISION: {cfg.FLOAT32_PRECISION!r}",
            expected="its default: float32 as torch computes it",
            remedy="set FLOAT32_PRECISION to its default",
        )
