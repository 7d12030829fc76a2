"""RegNet: widths by the rule of the paper, and the blocks."""

from typing import Any

import pytest
import torch
from torch import nn

from detexport.errors import ConfigError
from detexport.modeling.backbone import RegNet
from detexport.modeling.backbone.regnet import (
    AnyNet,
    ResBasicBlock,
    ResBottleneckBlock,
    ResStem,
    SimpleStem,
    VanillaBlock,
    regnet_widths,
)

OPTIONS: dict[str, Any] = {"stem_class": SimpleStem, "stem_width": 8, "block_class": ResBottleneckBlock}


@pytest.mark.parametrize(
    ("numbers", "widths", "depths"),
    [
        # RegNetX-4.0GF and RegNetY-4.0GF, tables 1 and 2 of the paper's appendix.
        ((23, 38.65, 96, 2.43), [96, 232, 568, 1376], [2, 5, 14, 2]),
        ((22, 31.41, 96, 2.24), [96, 216, 480, 1080], [2, 6, 12, 2]),
        ((5, 0, 32, 2.0), [32], [5]),
    ],
)
def test_widths(numbers: tuple[int, float, float, float], widths: list[int], depths: list[int]) -> None:
    assert regnet_widths(*numbers) == (widths, depths)


def test_groups_fit_into_the_widths() -> None:
    with torch.device("meta"):
        net = RegNet(**OPTIONS, depth=23, w_a=38.65, w_0=96, w_m=2.43, group_width=40)
    # The published network.
    assert [getattr(net, f"s{stage}").b1.out_channels for stage in (1, 2, 3, 4)] == [80, 240, 560, 1360]
    assert net.s2.b1.f.b.groups == 6


def test_feature_maps_and_their_shapes() -> None:
    net = RegNet(**OPTIONS, depth=4, w_a=8, w_0=8, w_m=2.0, group_width=8, out_features=["stem", "s2"])
    features = net(torch.rand(1, 3, 33, 64))
    assert {name: tuple(one.shape) for name, one in features.items()} == {
        "stem": (1, 8, 17, 32),
        "s2": (1, 16, 5, 8),
    }
    assert {name: (one.channels, one.stride) for name, one in net.output_shape().items()} == {
        "stem": (8, 2),
        "s2": (16, 8),
    }
    with pytest.raises(ConfigError, match="s9"):
        RegNet(**OPTIONS, depth=4, w_a=8, w_0=8, w_m=2.0, group_width=8, out_features=["s9"])
    with pytest.raises(ConfigError, match="w_m=1"):
        regnet_widths(4, 8, 8, 1)


@pytest.mark.parametrize("block", [ResBasicBlock, ResBottleneckBlock, VanillaBlock])
@pytest.mark.parametrize("stem", [SimpleStem, ResStem])
def test_blocks(block: type, stem: type) -> None:
    net = AnyNet(
        stem_class=stem, stem_width=8, block_class=block, depths=[2], widths=[16], group_widths=[8],
        strides=[2], bottleneck_ratios=[1.0], se_ratio=0.25, activation_class=nn.SiLU, freeze_at=1,
    )  # fmt: skip
    found = net(torch.rand(2, 3, 32, 32))["s1"]
    assert found.shape == (
        2,
        16,
        32 // net.output_shape()["s1"].stride,
        32 // net.output_shape()["s1"].stride,
    )
    found.sum().backward()
    trained = {name.split(".")[0] for name, one in net.named_parameters() if one.grad is not None}
    assert trained == {"s1"}
    assert not any(one.requires_grad for one in net.stem.parameters())
