"""Rules of values: the defaults and the published configurations fit them."""

from pathlib import Path
from typing import Any

import pytest

from detexport.config import get_cfg
from detexport.config.cfg import add_project_keys, load_cfg
from detexport.config.valid_values import VALUES, Number, check_values
from detexport.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    [*(ROOT / "src/detexport/model_zoo/configs").rglob("*.yaml"), *ROOT.glob("conf/detectron2/*.yaml")]
)


def test_defaults_fit() -> None:
    cfg = get_cfg()
    check_values(cfg, get_cfg())
    for project in ("deeplab", "panoptic_deeplab"):
        add_project_keys(cfg, project)
    for key in VALUES:
        cfg.value_of(key)
    check_values(cfg, cfg.clone())


def test_published_configurations_fit() -> None:
    assert len(CONFIGS) > 50
    for path in CONFIGS:
        check_values(load_cfg(path), get_cfg())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", -3),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 0),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 1 << 40),
        ("MODEL.RESNETS.NUM_GROUPS", 0),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", -64),
        ("MODEL.ROI_HEADS.IN_FEATURES", None),
        ("MODEL.ROI_HEADS.IN_FEATURES", [1, 2]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", []),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[]]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], ["a"]]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[0]]),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[-1.0]]),
        ("MODEL.PIXEL_MEAN", ["a", "b", "c"]),
        ("MODEL.PIXEL_STD", [1.0, float("nan"), 1.0]),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", [1.0, 1.0]),
        ("MODEL.RPN.CONV_DIMS", [0]),
        ("MODEL.RPN.NMS_THRESH", None),
        ("MODEL.RPN.PRE_NMS_TOPK_TEST", 0),
        ("MODEL.MASK_ON", None),
        ("MODEL.META_ARCHITECTURE", None),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", float("inf")),
        ("TEST.DETECTIONS_PER_IMAGE", -2),
    ],
)
def test_invalid_values_are_named(key: str, value: Any) -> None:
    cfg = get_cfg()
    group, _, name = key.rpartition(".")
    cfg.value_of(group)[name] = value
    with pytest.raises(ConfigError, match=rf"^a value does not fit its key; got: {key}: .*expected: {key}: "):
        check_values(cfg, get_cfg())


def test_all_invalid_values_are_named_in_one_error() -> None:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.MODEL.RPN.NMS_THRESH = None, "x"
    cfg.MODEL.OWN = cfg.OWN = "not ours"
    with pytest.raises(ConfigError, match=r"2 values .*MODEL\.MASK_ON: None, MODEL\.RPN\.NMS_THRESH: 'x'"):
        check_values(cfg, get_cfg())


def test_numbers() -> None:
    assert Number(0, 1).fits(0)
    assert not Number(0, 1, above=True).fits(0)
    assert not Number(0, 1).fits(float("nan"))
    assert not Number(0, 9, whole=True).fits(1.0)
    assert not Number(0, 9).fits(True)
