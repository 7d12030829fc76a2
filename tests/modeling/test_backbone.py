"""Backbones: names, channels, strides and sizes of their feature maps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.config.cfg import load_cfg
from detexport.errors import ConfigError
from detexport.modeling import build_backbone
from detexport.modeling.backbone import (
    FPN,
    Backbone,
    BasicStem,
    BottleneckBlock,
    ResNet,
    padding_of,
)
from detexport.modeling.backbone.fpn import LastLevelP6P7
from detexport.modeling.backbone.resnet import BasicBlock

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


def test_a_network_of_stages_of_ones_own() -> None:
    stem = BasicStem(in_channels=3, out_channels=8, norm="")
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            2,
            in_channels=8,
            out_channels=16,
            bottleneck_channels=4,
            stride_per_block=[1, 1],
            norm="",
        ),
        ResNet.make_stage(BasicBlock, 1, in_channels=16, out_channels=24, stride=2, norm="BN"),
    ]
    network = ResNet(stem, stages, out_features=["res2", "res3"], freeze_at=2)
    shapes = network.output_shape()
    assert (shapes["res2"].channels, shapes["res2"].stride) == (16, 4)
    assert (shapes["res3"].channels, shapes["res3"].stride) == (24, 8)
    outputs = network.eval()(torch.zeros(1, 3, 32, 64))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "res2": (1, 16, 8, 16),
        "res3": (1, 24, 4, 8),
    }
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"res3"}
    assert list(ResNet(stem, stages).output_shape()) == ["res3"]
    with pytest.raises(ConfigError, match="without a classifier"):
        ResNet(stem, stages, num_classes=10)
    with pytest.raises(ConfigError, match="stride_per_block: 1 values"):
        ResNet.make_stage(BasicBlock, 2, in_channels=8, out_channels=8, stride_per_block=[1])


@pytest.mark.parametrize(("depth", "channels", "blocks"), [(18, 512, 2), (50, 2048, 3)])
def test_default_stages(depth: int, channels: int, blocks: int) -> None:
    stages = ResNet.make_default_stages(depth, norm="")
    assert stages[3][-1].out_channels == channels
    assert len(stages[3]) == blocks
    assert [stage[0].stride for stage in stages] == [1, 2, 2, 2]
    with pytest.raises(ConfigError, match="unknown ResNet depth"):
        ResNet.make_default_stages(20)


def test_a_pyramid_whose_top_starts_at_p5() -> None:
    top = LastLevelP6P7(8, 8, in_feature="p5")
    bottom_up = ResNet(BasicStem(out_channels=64), ResNet.make_default_stages(18))
    pyramid = FPN(bottom_up, ["res5"], 8, top_block=top)
    outputs = pyramid.eval()(torch.zeros(1, 3, 64, 64))
    assert torch.equal(outputs["p6"], top.p6(outputs["p5"]))


def test_padding_follows_the_constraints_of_the_backbone() -> None:
    class Patches(Backbone):
        padding_constraints = {"size_divisibility": 16}  # noqa: RUF012

    assert padding_of(Patches()) == {"size_divisibility": 16, "square_pad": 0}
    assert Backbone().padding_constraints == {}
    Patches.padding_constraints = {"square_size": 1024, "size_divisibility": 0}
    Patches.size_divisibility = 32
    assert padding_of(Patches()) == {"size_divisibility": 0, "square_pad": 1024}
    del Patches.padding_constraints
    assert padding_of(Patches()) == {"size_divisibility": 32, "square_pad": 0}
