"""Models by configuration: what is built, and that nothing which is not supported is passed over."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detexport.config.cfg import CfgNode, load_cfg
from detexport.errors import ConfigError, OutOfMemoryError
from detexport.layers import FrozenBatchNorm2d, ShapeSpec
from detexport.layers.norm import LayerNorm
from detexport.modeling import build_backbone, build_model
from detexport.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock
from fuzzing import limited_memory

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
        (["FLOAT32_PRECISION", "high"], "FLOAT32_PRECISION"),
        (["MODEL.DEVICE", "gpu"], "unknown device; got: MODEL.DEVICE: 'gpu'; expected: cpu"),
        (["MODEL.BACKBONE.NAME", "build_vit"], "unknown backbone; got: MODEL.BACKBONE.NAME"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "None"], "MODEL.PROPOSAL_GENERATOR.NAME"),
        (["MODEL.RPN.HEAD_NAME", "Mine"], "unknown RPN head; got: MODEL.RPN.HEAD_NAME"),
        (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], "do not fit RPN.*RotatedAnchorGenerator"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], "rotated boxes have 5 weights; got: MODEL.RPN"),
        (["MODEL.ROI_HEADS.NAME", "RROIHeads"], "does not fit RROIHeads.*POOLER_TYPE: ROIAlignV2"),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"], "does not fit StandardROIHeads"),
        (["MODEL.ANCHOR_GENERATOR.OFFSET", 1.0], "MODEL.ANCHOR_GENERATOR.OFFSET: 1.0"),
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
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPol"], "POOLER_TYPE: ROIPol; expected: .*ROIPool"),
        ([*CASCADE, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True], "TRAIN_ON_PRED_BOXES: True"),
        ([*C4, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True], "TRAIN_ON_PRED_BOXES: True"),
        (["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True], "USE_SIGMOID_CE: False"),
        (
            ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "iou"],
            "ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE: iou.*giou",
        ),
        (["MODEL.RPN.BBOX_REG_LOSS_TYPE", "iou"], "MODEL.RPN.BBOX_REG_LOSS_TYPE: iou"),
        (
            ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNN"],
            "unknown keypoint head; got: MODEL.ROI_KEYPOINT_HEAD.NAME: 'KRCNN'",
        ),
        (["MODEL.RESNETS.DEPTH", 51], "unknown ResNet depth; got: 51"),
        (["MODEL.RESNETS.NORM", "IN"], "unknown normalization; got: NORM: 'IN'"),
        (["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 48], "over 48 channels"),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True]], "DEFORM_ON_PER_STAGE: a list of 4"),
        (
            ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]],
            "ResNet-18 .*DEFORM_ON_PER_STAGE: .*True",
        ),
        (["MODEL.RESNETS.RES5_DILATION", 4], "RES5_DILATION: 4"),
        (["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.NUM_GROUPS", 2], "NUM_GROUPS: 2"),
        (["MODEL.RESNETS.OUT_FEATURES", ["res2", "res9"]], "OUT_FEATURES: .'res9'"),
        (["MODEL.RESNETS.OUT_FEATURES", []], "OUT_FEATURES names no stage"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res6"]], "MODEL.FPN.IN_FEATURES .*res6"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res4"]], "strides of a feature pyramid must double"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res3"]], "ends at p5"),
        (["MODEL.FPN.FUSE_TYPE", "max"], "FUSE_TYPE; got: max"),
        (["MODEL.RPN.IN_FEATURES", ["p2", "p7"]], "MODEL.RPN.IN_FEATURES .*p7"),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["res4"]], "MODEL.ROI_HEADS.IN_FEATURES .*res4"),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p4"]], "strides of a pooler's levels must double"),
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


DEFORMABLE = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, False, True]]
BLOCKS = {"res3": 4, "res5": 3}


@pytest.mark.parametrize("stride_in_1x1", [False, True])
@pytest.mark.parametrize("modulated", [False, True])
def test_new_deformable_blocks_are_plain_ones(modulated: bool, stride_in_1x1: bool) -> None:
    options = ["MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1, "MODEL.BACKBONE.FREEZE_AT", 0]
    plain = build_backbone(configured(*options)).eval()
    cfg = configured(*options, *DEFORMABLE, "MODEL.RESNETS.DEFORM_MODULATED", modulated)
    cfg.MODEL.RESNETS.DEFORM_NUM_GROUPS = 2
    deformable = build_backbone(cfg).eval()
    added = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert not added.unexpected_keys
    expected = {
        f"bottom_up.{stage}.{block}.conv2_offset.{name}"
        for stage, blocks in BLOCKS.items()
        for block in range(blocks)
        for name in ("weight", "bias")
    }
    assert set(added.missing_keys) == expected
    offset = deformable.bottom_up.res3[0].conv2_offset
    assert offset.out_channels == 2 * (27 if modulated else 18)
    assert offset.stride == ((1, 1) if stride_in_1x1 else (2, 2))
    if modulated:
        # The mask starts at a half.
        for stage, blocks in BLOCKS.items():
            for block in range(blocks):
                getattr(deformable.bottom_up, stage)[block].conv2.weight.data *= 2
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for name, expected_map in plain(image).items():
            torch.testing.assert_close(deformable(image)[name], expected_map, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_of_a_deformable_block_move_what_it_sees(modulated: bool) -> None:
    torch.manual_seed(0)
    block = DeformBottleneckBlock(
        4,
        4,
        bottleneck_channels=2,
        stride=1,
        num_groups=1,
        stride_in_1x1=False,
        dilation=1,
        norm="",
        deform_modulated=modulated,
        deform_num_groups=1,
    )
    # Every tap one cell to the right (x is the second of a pair); the mask, last, at sigmoid(0.0).
    block.conv2_offset.bias.data[1:18:2] = 1.0
    x = torch.rand(1, 4, 6, 8)
    hidden = block.conv1(x)
    moved = F.pad(hidden, [0, 1])[..., 1:]
    wide = F.conv2d(moved, block.conv2.weight, padding=1) * (0.5 if modulated else 1.0)
    expected = F.relu(block.conv3(F.relu(wide)) + x)
    # The column that looks across the left edge of the moved map sees what is there.
    torch.testing.assert_close(block(x)[..., 1:], expected[..., 1:])


def test_frozen_deformable_stages_have_frozen_norms() -> None:
    cfg = configured(*DEFORMABLE, "MODEL.BACKBONE.FREEZE_AT", 3)
    network = build_backbone(cfg).bottom_up
    assert isinstance(network.res3[0].conv2.norm, FrozenBatchNorm2d)
    assert isinstance(network.res5[0].conv2.norm, nn.BatchNorm2d)


@pytest.mark.parametrize(("depth", "deformable"), [(18, False), (50, False), (50, True)])
def test_a_network_without_norms_has_no_biases_either(depth: int, deformable: bool) -> None:
    cfg = configured("MODEL.RESNETS.NORM", "", "MODEL.RESNETS.DEPTH", depth)
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [deformable] * 4
    biases = [name for name in build_backbone(cfg).bottom_up.state_dict() if not name.endswith(".weight")]
    assert all(name.endswith(".conv2_offset.bias") for name in biases)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_heads_of_a_c4_model_are_three_bottlenecks(depth: int) -> None:
    model = build_model(configured(*C4, "MODEL.RESNETS.DEPTH", depth))
    assert [type(block) for block in model.roi_heads.res5] == [BottleneckBlock] * 3
    x = torch.rand(2, model.roi_heads.res5[0].conv1.in_channels, 14, 14)
    assert model.roi_heads.res5(x).shape[2:] == (7, 7)


@pytest.mark.parametrize("norm", ["SyncBN", "LN", "naiveSyncBN_N"])
def test_every_module_takes_a_norm(norm: str) -> None:
    keys = [f"MODEL.{part}.NORM" for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")]
    cfg = configured(*(value for key in keys for value in (key, norm)), "MODEL.ROI_BOX_HEAD.NUM_CONV", 1)
    model = build_model(cfg)
    kind = LayerNorm if norm == "LN" else nn.BatchNorm2d
    for conv in (
        model.backbone.bottom_up.res5[0].conv2,
        model.backbone.fpn_output3,
        model.roi_heads.box_head.conv1,
        model.roi_heads.mask_head.mask_fcn1,
    ):
        assert isinstance(conv.norm, kind)


def test_a_model_that_is_larger_than_the_memory_names_its_sizes() -> None:
    cfg = configured("MODEL.ROI_BOX_HEAD.FC_DIM", 16_384, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 28)
    with (
        limited_memory(),
        pytest.raises(OutOfMemoryError, match=r"MODEL\.ROI_BOX_HEAD\.FC_DIM: 16384") as caught,
    ):
        build_model(cfg)
    assert caught.value.exit_code == 3
    assert str(caught.value).endswith("remedy: correct MODEL.ROI_BOX_HEAD.FC_DIM")
