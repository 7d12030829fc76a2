"""Blocks of convolutional networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.layers import CNNBlockBase, Conv2d, DepthwiseSeparableConv2d, FrozenBatchNorm2d, get_norm


class Block(CNNBlockBase):
    def __init__(self) -> None:
        super().__init__(3, 4, stride=2)
        self.conv = Conv2d(3, 4, 3, stride=2, norm=get_norm("BN", 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_frozen_block_is_not_trained() -> None:
    block = Block()
    assert (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)
    assert block.freeze() is block
    assert isinstance(block.conv.norm, FrozenBatchNorm2d)
    assert not any(parameter.requires_grad for parameter in block.parameters())


def test_a_separable_convolution_is_one_per_channel_then_one_per_pixel() -> None:
    torch.manual_seed(0)
    conv = DepthwiseSeparableConv2d(
        4, 6, padding=2, dilation=2, norm1="BN", activation1=F.relu, norm2=""
    ).eval()
    x = torch.randn(1, 4, 9, 9)
    depthwise = F.conv2d(x, conv.depthwise.weight, padding=2, dilation=2, groups=4)
    expected = F.conv2d(F.relu(conv.depthwise.norm(depthwise)), conv.pointwise.weight, conv.pointwise.bias)
    torch.testing.assert_close(conv(x), expected)
    assert conv.depthwise.bias is None
    assert isinstance(conv.depthwise.norm, nn.BatchNorm2d)
