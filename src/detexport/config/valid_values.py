"""Table of the valid values of the keys that models are built from."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from yacs.config import CfgNode as _YacsNode

from detexport.errors import ConfigError, listed, shown


class Rule(Protocol):
    """Condition on a value; ``str()`` describes it."""

    def fits(self, value: Any) -> bool:
        """Return whether ``value`` is valid."""
        ...


@dataclass(frozen=True)
class Number:
    """A number from ``lowest`` to ``highest``; an integer if ``whole``."""

    lowest: float = -1e18
    highest: float = 1e18
    whole: bool = False
    above: bool = False
    """Whether ``lowest`` itself is excluded."""

    def fits(self, value: Any) -> bool:
        """Return whether ``value`` is a number in the range; NaN is not."""
        kinds = (int,) if self.whole else (int, float)
        if type(value) not in kinds or not self.lowest <= value <= self.highest:
            return False
        return not (self.above and value == self.lowest)

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a number"
        start = "above" if self.above else "from"
        return f"{kind} {start} {self.lowest:g} to {self.highest:g}"


@dataclass(frozen=True)
class Text:
    """A string."""

    def fits(self, value: Any) -> bool:
        """Return whether ``value`` is a string."""
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a string"


@dataclass(frozen=True)
class Switch:
    """True or False."""

    def fits(self, value: Any) -> bool:
        """Return whether ``value`` is a bool."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class Listed:
    """A list of ``shortest`` to ``longest`` values that each fit ``entry``."""

    entry: Rule
    shortest: int = 0
    longest: int = 256

    def fits(self, value: Any) -> bool:
        """Return whether ``value`` is a list or tuple of valid entries."""
        return (
            isinstance(value, list | tuple)
            and self.shortest <= len(value) <= self.longest
            and all(self.entry.fits(entry) for entry in value)
        )

    def __str__(self) -> str:
        count = str(self.shortest) if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
        return f"a list of {count} entries, each {self.entry}"


@dataclass(frozen=True)
class Either:
    """A value that fits one of two rules."""

    first: Rule
    second: Rule

    def fits(self, value: Any) -> bool:
        """Return whether ``value`` fits one of the rules."""
        return self.first.fits(value) or self.second.fits(value)

    def __str__(self) -> str:
        return f"{self.first}, or {self.second}"


@dataclass(frozen=True)
class Anything:
    """A value that is checked where it is used."""

    def fits(self, value: Any) -> bool:
        """Return True."""
        return True


CLASSES = Number(1, 100_000, whole=True)
CHANNELS = Number(1, 16_384, whole=True)
LAYERS = Number(0, 64, whole=True)
CELLS = Number(1, 512, whole=True)
BOXES = Number(1, 1_000_000, whole=True)
PIXELS = Number(0, 1_000_000, whole=True)
FRACTION = Number(0, 1)
FINITE = Number()
POSITIVE = Number(0, 1e6, above=True)
NAMES = Listed(Text())
PER_LEVEL = Either(Listed(Listed(POSITIVE, 1, 64), 1, 64), Listed(POSITIVE, 1, 64))
WEIGHTS = Listed(POSITIVE, 4, 4)
WEIGHTS_OR_ROTATED = Listed(POSITIVE, 4, 5)
"""Weights of box deltas: four, or five for rotated boxes."""
DILATIONS = Listed(Number(1, 256, whole=True), 3, 3)
LABELS = Listed(Number(-1, 1, whole=True), 1, 16)

COUNTS = re.compile(r"depths?|num_(blocks|convs?|fcs?|layers|levels|stages)")
"""Arguments of lazy configurations that count layers."""
MOST_LAYERS = Number(-1, 1000, whole=True)
LARGE = Number(-1e9, 1e9)
"""Other integers of lazy configurations."""

VALUES: dict[str, Rule] = {
    "INPUT.MAX_SIZE_TEST": PIXELS,
    "INPUT.MIN_SIZE_TEST": PIXELS,
    "MODEL.ANCHOR_GENERATOR.ANGLES": Anything(),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": PER_LEVEL,
    "MODEL.ANCHOR_GENERATOR.OFFSET": Number(0, 1),
    "MODEL.ANCHOR_GENERATOR.SIZES": PER_LEVEL,
    "MODEL.BACKBONE.FREEZE_AT": Number(-1, 64, whole=True),
    "MODEL.FPN.OUT_CHANNELS": CHANNELS,
    "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS": CHANNELS,
    "MODEL.INS_EMBED_HEAD.ASPP_DILATIONS": DILATIONS,
    "MODEL.INS_EMBED_HEAD.ASPP_DROPOUT": FRACTION,
    "MODEL.INS_EMBED_HEAD.COMMON_STRIDE": CELLS,
    "MODEL.INS_EMBED_HEAD.CONVS_DIM": CHANNELS,
    "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS": CHANNELS,
    "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS": Listed(CHANNELS, 0, 16),
    "MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL": CELLS,
    "MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY": Number(-1, 65_535, whole=True),
    "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE": BOXES,
    "MODEL.PIXEL_MEAN": Listed(FINITE, 1, 16),
    "MODEL.PIXEL_STD": Listed(POSITIVE, 1, 16),
    "MODEL.POINT_HEAD.FC_DIM": CHANNELS,
    "MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO": FRACTION,
    "MODEL.POINT_HEAD.NUM_CLASSES": CLASSES,
    "MODEL.POINT_HEAD.NUM_FC": LAYERS,
    "MODEL.POINT_HEAD.OVERSAMPLE_RATIO": Number(1, 100),
    "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": BOXES,
    # Each step doubles the side of a mask.
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": Number(0, 16, whole=True),
    "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": BOXES,
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": Number(0, 1e6),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": CHANNELS,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Listed(Switch(), 4, 4),
    "MODEL.RESNETS.DEPTH": Number(1, 10_000, whole=True),
    "MODEL.RESNETS.NUM_GROUPS": CHANNELS,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": CHANNELS,
    "MODEL.RESNETS.RES4_DILATION": Number(1, 2, whole=True),
    "MODEL.RESNETS.RES5_DILATION": Number(1, 4, whole=True),
    "MODEL.RESNETS.RES5_MULTI_GRID": Listed(Number(1, 64, whole=True), 1, 64),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": CHANNELS,
    "MODEL.RESNETS.WIDTH_PER_GROUP": CHANNELS,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": WEIGHTS,
    "MODEL.RETINANET.IOU_LABELS": LABELS,
    "MODEL.RETINANET.IOU_THRESHOLDS": Listed(FINITE, 1, 16),
    "MODEL.RETINANET.NUM_CLASSES": CLASSES,
    "MODEL.RETINANET.NUM_CONVS": LAYERS,
    "MODEL.RETINANET.PRIOR_PROB": Number(0, 0.9999, above=True),
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": BOXES,
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": Listed(WEIGHTS, 1, 16),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": Listed(FINITE, 1, 16),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": WEIGHTS_OR_ROTATED,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": CHANNELS,
    "MODEL.ROI_BOX_HEAD.FC_DIM": CHANNELS,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": LAYERS,
    "MODEL.ROI_BOX_HEAD.NUM_FC": LAYERS,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": CELLS,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": LAYERS,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": BOXES,
    "MODEL.ROI_HEADS.IOU_LABELS": LABELS,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": Listed(FINITE, 1, 16),
    "MODEL.ROI_HEADS.NUM_CLASSES": CLASSES,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": FRACTION,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": Listed(CHANNELS, 0, 64),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": CLASSES,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": CELLS,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": LAYERS,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": CHANNELS,
    "MODEL.ROI_MASK_HEAD.FC_DIM": CHANNELS,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": LAYERS,
    "MODEL.ROI_MASK_HEAD.NUM_FC": LAYERS,
    "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": CELLS,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": CELLS,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": LAYERS,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": BOXES,
    "MODEL.RPN.BBOX_REG_WEIGHTS": WEIGHTS_OR_ROTATED,
    # -1: as many channels as the feature maps have.
    "MODEL.RPN.CONV_DIMS": Listed(Either(CHANNELS, Number(-1, -1, whole=True)), 1, 64),
    "MODEL.RPN.IOU_LABELS": LABELS,
    "MODEL.RPN.IOU_THRESHOLDS": Listed(FINITE, 1, 16),
    "MODEL.RPN.POSITIVE_FRACTION": FRACTION,
    "MODEL.RPN.POST_NMS_TOPK_TEST": BOXES,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": BOXES,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": BOXES,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": BOXES,
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": CHANNELS,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": DILATIONS,
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": FRACTION,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": CELLS,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": CHANNELS,
    "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS": CHANNELS,
    "MODEL.SEM_SEG_HEAD.LOSS_TOP_K": Number(0, 1, above=True),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES,
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": Listed(CHANNELS, 0, 16),
    # Checked with the other options of the model that it names, whose defaults are null.
    "MODEL.TORCHVISION.FIRST_LABEL": Anything(),
    # -1: all of them.
    "TEST.DETECTIONS_PER_IMAGE": Number(-1, 1_000_000, whole=True),
    "TEST.EXPECTED_RESULTS": Anything(),
    "TEST.KEYPOINT_OKS_SIGMAS": Listed(Number(0, 1e3), 0, 100_000),
}
"""Rules by key. For other keys the type of the default decides: see ``rule_of``."""


def rule_of(key: str, default: Any) -> Rule:
    """Return the rule of a key, from the table or from the type of its default."""
    if key in VALUES:
        return VALUES[key]
    if isinstance(default, bool):
        return Switch()
    if isinstance(default, int | float):
        return Number(whole=isinstance(default, int))
    if isinstance(default, str):
        return Text()
    if isinstance(default, list | tuple):
        entries = {type(entry) for entry in default}
        return Listed(FINITE if entries and entries <= {int, float} else Text(), longest=100_000)
    return Anything()


def check_values(cfg: _YacsNode, defaults: _YacsNode) -> None:
    """Raise ConfigError for values that no model can be built from.

    Args:
        cfg: a configuration; custom keys, which ``defaults`` lacks, are not checked.
        defaults: all keys with their defaults.

    Raises:
        ConfigError: values do not fit their keys; the error lists all of them.
    """
    wrong = [(key, value, rule) for key, value, rule in _ruled(cfg, defaults) if not rule.fits(value)]
    if wrong:
        key, value, rule = wrong[0]
        others = [f"{other}: {shown(bad)}" for other, bad, _ in wrong[1:]]
        raise ConfigError(
            f"{len(wrong)} values do not fit their keys" if others else "a value does not fit its key",
            got=listed([f"{key}: {shown(value)}", *others]),
            expected=f"{key}: {rule}",
            remedy=f"correct {key}",
        )


def check_arguments(name: str, value: Any) -> None:
    """Raise ConfigError for integers of a lazy configuration that no model can be built from.

    Args:
        name: of the argument.
        value: of the argument; the integers in a list are checked, other values are not.

    Raises:
        ConfigError: an integer is out of range.
    """
    rule = MOST_LAYERS if COUNTS.fullmatch(name) else LARGE
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, int) and not isinstance(one, bool) and not rule.fits(one):
            raise ConfigError(
                "a number of the lazy configuration is out of range",
                got=f"{name}: {shown(one)}",
                expected=rule,
                remedy=f"correct {name}",
            )


def check_exportable(cfg: _YacsNode) -> None:
    """Raise ConfigError if no artifact can do what a configuration describes.

    An artifact runs a model once for an image, and its contract has no fields for centres and offsets.
    """
    if cfg.MODEL.META_ARCHITECTURE == "PanopticDeepLab":
        raise ConfigError(
            "PanopticDeepLab is not exported yet",
            got="MODEL.META_ARCHITECTURE: PanopticDeepLab, whose maps of centres and offsets no contract has",
            expected="a model of instances, proposals, sem_seg or panoptic_seg",
            remedy="run it in eager mode by build_model, or trace its method detect yourself",
        )
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError(
            "test-time augmentation cannot be exported",
            got="TEST.AUG.ENABLED: True",
            expected="False: one pass over an image",
            remedy="set TEST.AUG.ENABLED to False; GeneralizedRCNNWithTTA runs in eager mode",
        )


def _ruled(cfg: _YacsNode, defaults: _YacsNode, prefix: str = "") -> Iterator[tuple[str, Any, Rule]]:
    for name, default in defaults.items():
        key = f"{prefix}{name}"
        if name not in cfg:
            continue
        if isinstance(default, _YacsNode) and isinstance(cfg[name], _YacsNode):
            yield from _ruled(cfg[name], default, f"{key}.")
        elif not isinstance(default, _YacsNode):
            yield key, cfg[name], rule_of(key, default)
