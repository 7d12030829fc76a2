"""Deformable convolution compared with a plain one and with its definition, cell by cell."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers import DeformConv, FrozenBatchNorm2d, ModulatedDeformConv

OPTIONS = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2, "deformable_groups": 2}


def conv(**changes: int) -> DeformConv:
    torch.manual_seed(0)
    return DeformConv(4, 6, 3, **{**OPTIONS, **changes})


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Sample bilinearly between pixels, with zeros outside the image."""
    total = torch.zeros(())
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total = total + image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def by_definition(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """Convolve one image (C, H, W) by the definition, with the options above."""
    channels, _, _ = x.shape
    _, rows, columns = offset.shape
    out = torch.zeros(weight.shape[0], rows, columns)
    for row in range(rows):
        for column in range(columns):
            for tap in range(9):
                for channel in range(channels):
                    group = channel // (channels // 2)
                    shift = offset[(group * 9 + tap) * 2 : (group * 9 + tap) * 2 + 2, row, column]
                    y = row * 2 - 2 + tap // 3 * 2 + float(shift[0])
                    at = column * 2 - 2 + tap % 3 * 2 + float(shift[1])
                    value = bilinear(x[channel], y, at) * mask[group * 9 + tap, row, column]
                    first = group * (weight.shape[0] // 2)
                    last = first + weight.shape[0] // 2
                    taps = weight[first:last, channel % (channels // 2), tap // 3, tap % 3]
                    out[first:last, row, column] += value * taps
    return out


def test_without_offsets_it_is_a_convolution() -> None:
    layer, x = conv(), torch.randn(2, 4, 9, 12)
    plain = F.conv2d(x, layer.weight, stride=2, padding=2, dilation=2, groups=2)
    offset = torch.zeros(2, 36, *plain.shape[-2:])
    torch.testing.assert_close(layer(x, offset), plain)
    half = torch.full((2, 18, *plain.shape[-2:]), 0.5)
    torch.testing.assert_close(layer(x, offset, half), plain / 2)


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_and_mask_as_defined(modulated: bool) -> None:
    layer, x = conv(), torch.randn(4, 7, 6)
    offset, mask = torch.randn(36, 4, 3) * 2, torch.rand(18, 4, 3)
    mask = mask if modulated else torch.ones_like(mask)
    with torch.no_grad():
        found = layer(x[None], offset[None], mask[None] if modulated else None)[0]
        expected = by_definition(x, layer.weight, offset, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_normalization_is_a_child_module() -> None:
    norm = FrozenBatchNorm2d(6)
    norm.weight.fill_(3.0)
    layer = DeformConv(4, 6, 3, padding=1, norm=norm)
    assert {"weight", "norm.weight", "norm.running_var"} <= set(layer.state_dict())
    x = torch.randn(1, 4, 5, 5)
    found = layer(x, torch.zeros(1, 18, 5, 5))
    torch.testing.assert_close(found, 3 * F.conv2d(x, layer.weight, padding=1))


def test_gradients_reach_the_weight_the_offset_and_the_mask() -> None:
    layer = conv()
    offset = torch.randn(1, 36, 4, 4, requires_grad=True)
    mask = torch.rand(1, 18, 4, 4, requires_grad=True)
    layer(torch.randn(1, 4, 7, 7), offset, mask).square().sum().backward()
    for value in (layer.weight, offset, mask):
        assert value.grad is not None
        assert value.grad.abs().sum() > 0


def test_it_scripts() -> None:
    scripted: nn.Module = torch.jit.script(conv())
    x, offset, mask = torch.randn(1, 4, 7, 7), torch.randn(1, 36, 4, 4), torch.rand(1, 18, 4, 4)
    assert torch.equal(scripted(x, offset), conv()(x, offset))
    assert torch.equal(scripted(x, offset, mask), conv()(x, offset, mask))


def test_a_modulated_convolution_has_a_bias_and_an_activation() -> None:
    torch.manual_seed(0)
    x, offset = torch.randn(1, 4, 6, 6), torch.zeros(1, 18, 6, 6)
    conv = ModulatedDeformConv(4, 6, 3, padding=1, activation=F.relu)
    nn.init.normal_(conv.bias)
    expected = F.relu(F.conv2d(x, conv.weight, padding=1) / 2 + conv.bias[:, None, None])
    torch.testing.assert_close(conv(x, offset, torch.full((1, 9, 6, 6), 0.5)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="has no bias"):
        DeformConv(4, 6, 3, bias=True)
