"""Checks of the options of torchvision's models."""

import math
from typing import Any

from detexport.config import CfgNode, get_cfg
from detexport.errors import ConfigError


def unfit(name: str, key: str, got: Any, expected: str) -> ConfigError:
    """Return the error for an option that does not fit torchvision's model ``name``."""
    return ConfigError(
        f"an option does not fit torchvision's {name}",
        got=f"MODEL.TORCHVISION.{key}: {got!r}",
        expected=expected,
        remedy=f"correct MODEL.TORCHVISION.{key}, or leave it out",
    )


def check_options(cfg: CfgNode) -> None:
    """Check the types and ranges of ``MODEL.TORCHVISION``.

    Raises:
        ConfigError: an option has the wrong type or is out of range.
    """
    node = cfg.MODEL.TORCHVISION
    for kind, lowest, highest, keys in (
        (int, 0, 1, ("FIRST_LABEL",)),
        (int, 0, math.inf, ("MIN_SIZE",)),
        (int, 1, math.inf, ("DETECTIONS_PER_IMAGE", "MAX_SIZE", "NUM_CLASSES", "NUM_KEYPOINTS")),
        (float, 0, 1, ("NMS_THRESH", "NORM_EPS", "SCORE_THRESH")),
    ):
        for key in keys:
            value = node[key]
            if value is None and key != "FIRST_LABEL":
                continue
            if type(value) not in (int, kind) or not lowest <= value <= highest:
                raise unfit(node.NAME, key, value, f"{kind.__name__} from {lowest} to {highest}")


def refuse_idle_options(cfg: CfgNode) -> None:
    """Check that options without effect on torchvision's models have their defaults.

    Raises:
        ConfigError: such an option is set, or images are not RGB.
    """
    if cfg.INPUT.FORMAT != "RGB":
        raise ConfigError(
            "torchvision's models take RGB images",
            got=f"INPUT.FORMAT: {cfg.INPUT.FORMAT}",
            expected="RGB",
            remedy="set INPUT.FORMAT to RGB",
        )
    used = ("DEVICE", "META_ARCHITECTURE", "TORCHVISION", "WEIGHTS")
    idle = {
        "INPUT": ("MIN_SIZE_TEST", "MAX_SIZE_TEST"),
        "MODEL": tuple(key for key in cfg.MODEL if key not in used),
        "TEST": ("DETECTIONS_PER_IMAGE",),
    }
    defaults = get_cfg()
    changed = [
        f"{group}.{key}"
        for group, keys in idle.items()
        for key in keys
        if cfg[group][key] != defaults[group][key]
    ]
    if changed:
        raise ConfigError(
            "options that have no effect on torchvision's models",
            got=", ".join(changed),
            expected="their defaults",
            remedy="remove them; MODEL.TORCHVISION has the options of torchvision's models",
        )
