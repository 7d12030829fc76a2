"""Blocks of convolutional networks that extensions build on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detexport.layers.alias_of import alias_of
from detexport.layers.conv import init_conv_msra
from detexport.layers.norm import FrozenBatchNorm2d, get_norm
from detexport.layers.wrappers import Conv2d

Norm = str | Callable[[int], nn.Module]
Activation = Callable[[Tensor], Tensor] | None


@dataclass
class _Shape:
    in_channels: int
    out_channels: int
    stride: int


class CNNBlockBase(nn.Module):
    """A block from a feature map to one of another number of channels and stride.

    A subclass adds ``forward``. ``ResNet`` is built from lists of such blocks. In a scripted ``forward`` the
    properties are not available.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the output in cells of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        # One object, which TorchScript leaves out: numbers would become part of every scripted artifact.
        self._shape = _Shape(in_channels, out_channels, stride)

    in_channels = alias_of("_shape.in_channels", "Channels of the input.")
    out_channels = alias_of("_shape.out_channels", "Channels of the output.")
    stride = alias_of("_shape.stride", "Stride of the output in cells of the input.")

    @torch.jit.unused
    def freeze(self) -> "CNNBlockBase":
        """Freeze the block: see the function ``freeze``."""
        freeze(self)
        return self


def freeze(module: nn.Module) -> None:
    """Exclude parameters from training, and replace batch normalization within by ``FrozenBatchNorm2d``."""
    for parameter in module.parameters():
        parameter.requires_grad = False
    FrozenBatchNorm2d.convert_frozen_batchnorm(module)


class DepthwiseSeparableConv2d(nn.Module):
    """A convolution of each channel, then a 1x1 convolution (Chollet 2017, arXiv:1610.02357).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps per side of the first convolution.
        padding: of the first convolution.
        dilation: of the first convolution.
        norm1: normalization after the first convolution.
        activation1: activation after it; None for none.
        norm2: normalization after the second convolution.
        activation2: activation after it; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1: Any = None,
        activation1: Activation = None,
        norm2: Any = None,
        activation2: Activation = None,
    ) -> None:
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=not norm1,
            norm=get_norm(norm1, in_channels),
            activation=activation1,
        )
        self.pointwise = Conv2d(
            in_channels,
            out_channels,
            1,
            bias=not norm2,
            norm=get_norm(norm2, out_channels),
            activation=activation2,
        )
        for conv in (self.depthwise, self.pointwise):
            init_conv_msra(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        return self.pointwise(self.depthwise(x))
