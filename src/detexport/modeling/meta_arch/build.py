"""A model by its configuration."""

from typing import Any

import torch

from detexport.config import CfgNode, get_cfg
from detexport.config.cfg import naming_sources
from detexport.config.values import check_values
from detexport.errors import ALLOCATION_FAILURES, ConfigError
from detexport.modeling.registries import META_ARCH_REGISTRY


def build_model(cfg: CfgNode) -> Any:
    """Build ``cfg.MODEL.META_ARCHITECTURE`` with random parameters on ``cfg.MODEL.DEVICE``.

    Raises:
        ConfigError: a name, an option or its value is not supported, the device is not on this machine, or
            its memory does not suffice for the parameters.
    """
    with naming_sources(cfg):
        check_values(cfg, get_cfg())
        _check_options(cfg)
    try:
        return META_ARCH_REGISTRY.build(cfg).to(torch.device(cfg.MODEL.DEVICE))
    except (RuntimeError, MemoryError) as error:
        if not any(words in str(error).lower() for words in ALLOCATION_FAILURES):
            raise
        raise ConfigError(
            "there is not enough memory for the parameters of this model",
            got=str(error),
            expected="numbers of classes and channels whose products fit into the device's memory",
            remedy="correct NUM_CLASSES, FC_DIM, CONV_DIM, OUT_CHANNELS and POOLER_RESOLUTION",
        ) from error


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
    for key, value in (
        ("TEST.AUG.ENABLED", cfg.TEST.AUG.ENABLED),
        ("FLOAT32_PRECISION", cfg.FLOAT32_PRECISION),
    ):
        if value:
            raise ConfigError(
                "unsupported option",
                got=f"{key}: {value!r}",
                expected="its default: one pass over an image, in float32 as torch computes it",
                remedy=f"set {key} to its default",
            )
