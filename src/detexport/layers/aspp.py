"""Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587)."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers.blocks import DepthwiseSeparableConv2d
from detexport.layers.conv import init_xavier
from detexport.layers.norm import get_norm
from detexport.layers.wrappers import Conv2d


class ASPP(nn.Module):
    """Parallel branches over one feature map, joined by a 1x1 convolution.

    The branches are a 1x1 convolution, a 3x3 convolution for each dilation, and image pooling.

    Args:
        in_channels: channels of the input.
        out_channels: channels of each branch and of the output.
        dilations: of the three 3x3 convolutions.
        norm: normalization of the convolutions, except that of the image pooling.
        activation: called after each convolution; a module is copied.
        pool_kernel_size: height and width in cells of an average pooling with stride 1; None pools the whole
            map.
        dropout: probability of setting an output to 0 in training.
        use_depthwise_separable_conv: use ``DepthwiseSeparableConv2d`` for the 3x3 convolutions.
        pad_to_window: pad a feature map to a multiple of ``pool_kernel_size`` by repeating its edge, instead
            of raising ConfigError.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        norm: Any,
        activation: Callable[[Tensor], Tensor],
        pool_kernel_size: tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
        pad_to_window: bool = False,
    ) -> None:
        super().__init__()
        if len(dilations) != 3:
            raise ConfigError(
                "ASPP needs three dilations",
                got=list(dilations),
                expected="three numbers",
                remedy="give three dilations, such as 6, 12 and 18",
            )
        self.pool_kernel_size = pool_kernel_size
        self.pad_to_window = pad_to_window
        self.dropout = dropout

        def conv(channels: int, kernel_size: int, dilation: int, normalized: bool = True) -> Conv2d:
            layer = Conv2d(
                channels,
                out_channels,
                kernel_size,
                padding=dilation if kernel_size == 3 else 0,
                dilation=dilation,
                bias=not (norm and normalized),
                norm=get_norm(norm, out_channels) if normalized else None,
                activation=deepcopy(activation),
            )
            init_xavier(layer)
            return layer

        def separable(dilation: int) -> DepthwiseSeparableConv2d:
            return DepthwiseSeparableConv2d(
                in_channels,
                out_channels,
                padding=dilation,
                dilation=dilation,
                norm1=norm,
                activation1=deepcopy(activation),
                norm2=norm,
                activation2=deepcopy(activation),
            )

        pooling = nn.AdaptiveAvgPool2d(1) if pool_kernel_size is None else nn.AvgPool2d(pool_kernel_size, 1)
        self.convs = nn.ModuleList(
            [
                conv(in_channels, 1, 1),
                *(
                    separable(dilation) if use_depthwise_separable_conv else conv(in_channels, 3, dilation)
                    for dilation in dilations
                ),
                nn.Sequential(pooling, conv(in_channels, 1, 1, normalized=False)),
            ]
        )
        self.project = conv(5 * out_channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H, W).

        Raises:
            ConfigError: ``pool_kernel_size`` does not divide the height and width, without ``pad_to_window``.
        """
        if not self.pad_to_window:
            self.check_size(x.shape[2], x.shape[3])
        branches: list[Tensor] = []
        for index, branch in enumerate(self.convs):
            if index < 4:
                branches.append(branch(x))
        whole = self.padded(x)
        pooled = F.interpolate(
            self.convs[4](whole), size=[whole.shape[2], whole.shape[3]], mode="bilinear", align_corners=False
        )
        branches.append(pooled[:, :, : x.shape[2], : x.shape[3]])
        joined = self.project(torch.cat(branches, dim=1))
        return F.dropout(joined, self.dropout, training=self.training) if self.dropout > 0 else joined

    def padded(self, x: Tensor) -> Tensor:
        """Pad a map (N, C, H, W) to a multiple of the window by repeating its edge, if ``pad_to_window``."""
        if self.pad_to_window and self.pool_kernel_size is not None:
            rows, columns = self.pool_kernel_size
            down = (x.shape[2] + rows - 1) // rows * rows - x.shape[2]
            right = (x.shape[3] + columns - 1) // columns * columns - x.shape[3]
            x = F.pad(x, [0, right, 0, down], mode="replicate")
        return x

    @torch.jit.unused
    def check_size(self, height: int, width: int) -> None:
        """Check that the window of the pooling divides the feature map.

        Raises:
            ConfigError: it does not.
        """
        kernel = self.pool_kernel_size
        if kernel is not None and (height % kernel[0] or width % kernel[1]):
            raise ConfigError(
                "the feature map does not fit the pooling of ASPP",
                got=f"{height} x {width} cells, pool_kernel_size {tuple(kernel)}",
                expected="multiples of the kernel",
                remedy="train and test with images of the crop's size, or pool the whole map",
            )
