"""Models by configuration: what is built, and that nothing which is not supported is passed over."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detexport.config.cfg import CfgNode, load_cfg
from detexport.errors import ConfigError
from detexport.layers import FrozenBatchNorm2d, ShapeSpec
from detexport.modeling import build_backbone, build_model
from detexport.modeling.registries import Registry

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"

CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]

C4 = [
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16]]),
]


def configured(*overrides: Any) -> CfgNode:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(overrides)
    return cfg


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.META_ARCHITECTURE", "RetinaNets"],
            "unknown meta architecture; got: MODEL.META_ARCHITECTURE",
        ),
        (["TEST.AUG.ENABLED", True], "TEST.AUG.ENABLED"),
        (["FLOAT32_PRECISION", "high"], "FLOAT32_PRECISION"),
        (["MODEL.BACKBONE.NAME", "build_vit"], "unknown backbone; got: MODEL.BACKBONE.NAME"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "None"], "MODEL.PROPOSAL_GENERATOR.NAME"),
        (["MODEL.RPN.HEAD_NAME", "Mine"], "unknown RPN head; got: MODEL.RPN.HEAD_NAME"),
        (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], "MODEL.ANCHOR_GENERATOR.NAME"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHead"], "MODEL.ROI_HEADS.NAME.*StandardROIHeads"),
        (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], "CLS_AGNOSTIC_BBOX_REG: False"),
        ([*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", [0.5, 0.6]], "2 IOUS, 3 BBOX_REG_WEIGHTS"),
        ([*CASCADE, "MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.6]], r"IOU_THRESHOLDS: \[0.6\]"),
        (["MODEL.ROI_HEADS.NAME", "Res5ROIHeads"], r"ROI_HEADS.IN_FEATURES: \['p2'.*one"),
        ([*C4, "MODEL.RESNETS.RES5_DILATION", 2], "Res5ROIHeads; got: MODEL.RESNETS.RES5_DILATION: 2"),
        ([*C4, "MODEL.KEYPOINT_ON", True], "MODEL.KEYPOINT_ON: True"),
        ([*C4, "MODEL.ROI_HEADS.IN_FEATURES", ["res3"]], r"IN_FEATURES: \['res3'\]"),
        (["MODEL.ROI_BOX_HEAD.NAME", ""], "MODEL.ROI_BOX_HEAD.NAME: ''"),
        (["MODEL.ROI_MASK_HEAD.NAME", "CoarseMaskHead"], "MODEL.ROI_MASK_HEAD.NAME"),
        (["MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""], "MODEL.ROI_MASK_HEAD.POOLER_TYPE: ''"),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"], "POOLER_TYPE; got: ROIPool"),
        ([*CASCADE, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True], "cascade; got: .*TRAIN_ON_PRED_BOXES"),
        ([*C4, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True], "Res5ROIHeads; got: .*TRAIN_ON_PRED_BOXES"),
        (["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True], "USE_FED_LOSS"),
        (["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou"], "ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE: giou"),
        (["MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"], "MODEL.RPN.BBOX_REG_LOSS_TYPE: giou"),
        (
            ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNN"],
            "unknown keypoint head; got: MODEL.ROI_KEYPOINT_HEAD.NAME: 'KRCNN'",
        ),
        (["MODEL.RESNETS.DEPTH", 51], "unknown ResNet depth; got: 51"),
        (["MODEL.RESNETS.NORM", "LN"], "unknown normalization; got: NORM: 'LN'"),
        (["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 48], "over 48 channels"),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]], "DEFORM_ON_PER_STAGE"),
        (["MODEL.RESNETS.RES5_DILATION", 4], "RES5_DILATION: 4"),
        (["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.NUM_GROUPS", 2], "NUM_GROUPS: 2"),
        (["MODEL.RESNETS.OUT_FEATURES", ["res2", "res9"]], "OUT_FEATURES: .'res9'"),
        (["MODEL.RESNETS.OUT_FEATURES", []], "OUT_FEATURES names no stage"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res6"]], "MODEL.FPN.IN_FEATURES .*res6"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res4"]], "doubles the stride"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res3"]], "follow p5"),
        (["MODEL.FPN.FUSE_TYPE", "max"], "FUSE_TYPE; got: max"),
        (["MODEL.RPN.IN_FEATURES", ["p2", "p7"]], "MODEL.RPN.IN_FEATURES .*p7"),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["res4"]], "MODEL.ROI_HEADS.IN_FEATURES .*res4"),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p4"]], "double the stride"),
        (["MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16]]], "SIZES does not fit"),
        (["INPUT.FORMAT", "L"], "unsupported INPUT.FORMAT; got: L"),
        (["MODEL.PIXEL_MEAN", [1.0]], "PIXEL_MEAN: .1.0."),
        (["MODEL.PIXEL_STD", [1.0, 0.0, 1.0]], "PIXEL_STD: .1.0, 0.0, 1.0."),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_what_cannot_be_built_is_named(overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(configured(*overrides))


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE: cuda"):
        build_model(configured("MODEL.DEVICE", "cuda"))


@pytest.mark.parametrize(
    ("freeze_at", "trainable"),
    [
        (0, ["stem", "res2", "res3", "res4", "res5"]),
        (1, ["res2", "res3", "res4", "res5"]),
        (3, ["res4", "res5"]),
    ],
)
def test_frozen_stages_have_frozen_norms(freeze_at: int, trainable: list[str]) -> None:
    network = build_backbone(configured("MODEL.BACKBONE.FREEZE_AT", freeze_at)).bottom_up
    names = [
        name for name, stage in network.named_children() if any(p.requires_grad for p in stage.parameters())
    ]
    assert names == trainable
    for name, stage in network.named_children():
        norms = [m for m in stage.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
        kinds = {type(norm) for norm in norms}
        assert kinds == {nn.BatchNorm2d if name in trainable else FrozenBatchNorm2d}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.NORM", "FrozenBN"],
        ["MODEL.RESNETS.NUM_GROUPS", 4, "MODEL.RESNETS.WIDTH_PER_GROUP", 4],
        ["MODEL.FPN.FUSE_TYPE", "avg"],
    ],
    ids=["R50", "R18", "ResNeXt", "avg"],
)
def test_declared_shapes_are_those_of_the_maps(overrides: list[Any]) -> None:
    backbone = build_backbone(configured(*overrides)).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 128))
    shapes = backbone.output_shape()
    assert sorted(maps) == sorted(shapes) == ["p2", "p3", "p4", "p5", "p6"]
    for name, spec in shapes.items():
        assert maps[name].shape == (1, spec.channels, 64 // spec.stride, 128 // spec.stride)


def test_a_dilated_res5_keeps_the_stride() -> None:
    overrides = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.RES5_DILATION", 2]
    backbone = build_backbone(configured(*overrides, "MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"])).eval()
    assert backbone.output_shape()["res5"] == ShapeSpec(256, stride=16)
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 64))
    assert maps["res5"].shape == (1, 256, 4, 4)
    assert list(maps) == ["res4", "res5"]


def test_registries_take_classes_and_functions() -> None:
    registry = Registry("thing", "MODEL.THING")

    @registry.register()
    def build_one() -> int:
        return 1

    registry.register(dict, name="Two")
    assert registry.get("build_one")() == 1
    assert registry.get("Two") is dict
    assert "Two" in registry
    with pytest.raises(ValueError, match="'Two' is registered already"):
        registry.register(list, name="Two")
    with pytest.raises(ConfigError, match=r"unknown thing; got: MODEL\.THING: 'build_on'.*build_one"):
        registry.get("build_on")
