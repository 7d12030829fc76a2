"""Backbones: names, channels, strides and sizes of their feature maps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.config.cfg import load_cfg
from detexport.modeling import build_backbone

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
WITHOUT_FPN = ["MODEL.BACKBONE.NAME", "build_resnet_backbone"]


@pytest.mark.parametrize(
    ("overrides", "strides"),
    [
        ([], {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        ([*WITHOUT_FPN, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res4"]], {"res2": 4, "res4": 16}),
        (
            [*WITHOUT_FPN, "MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.RES5_DILATION", 2],
            {"res5": 16},
        ),
    ],
    ids=["FPN", "C4", "DC5"],
)
def test_feature_maps_have_the_shapes_that_the_backbone_declares(
    overrides: list[Any], strides: dict[str, int]
) -> None:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(overrides)
    backbone = build_backbone(cfg).eval()
    declared = backbone.output_shape()
    assert {name: shape.stride for name, shape in declared.items()} == strides
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 128, 192))
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        name: (2, declared[name].channels, 128 // stride, 192 // stride) for name, stride in strides.items()
    }


def test_the_pyramid_adds_the_coarser_level_to_the_finer_one() -> None:
    backbone = build_backbone(load_cfg(CONFIG)).eval()
    image, other = torch.rand(2, 1, 3, 128, 128)
    with torch.no_grad():
        before = backbone(image)
        backbone.fpn_lateral5.weight.zero_()
        after = backbone(image)
        assert not torch.equal(before["p2"], after["p2"]), "p5 reaches p2 through the top-down path"
        torch.testing.assert_close(after["p5"], backbone(other)["p5"])
