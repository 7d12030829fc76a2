"""Deformable convolution (Dai et al. 2017), optionally modulated (Zhu et al. 2018, arXiv:1811.11168)."""

from collections.abc import Callable

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor, nn

from detexport.errors import ConfigError


class DeformConv(nn.Module):
    """A square convolution whose taps are moved by offsets and, if modulated, weighted by a mask.

    Args:
        in_channels: C.
        out_channels: channels of the output.
        kernel_size: taps per side.
        stride: in cells of the input.
        padding: cells of zeros around the input.
        dilation: distance of neighbouring taps in cells.
        groups: groups of channels that are convolved separately.
        deformable_groups: G, groups of input channels that have their own offsets.
        bias: add a trained constant to each channel; by default, and only, in a ``ModulatedDeformConv``.
        norm: normalization of the output; a child module, as detectron2's checkpoints name it.
        activation: called with the normalized output.
    """

    bias: Tensor | None
    modulated = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool | None = None,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        has_bias = self.modulated if bias is None else bias
        if has_bias and not self.modulated:
            raise ConfigError("DeformConv has no bias", got="bias=True", remedy="use ModulatedDeformConv")
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.norm = norm
        self.activation = activation or nn.Identity()
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if has_bias else None)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve at the shifted taps.

        Args:
            x: (N, C, H, W).
            offset: (N, G * taps * 2, H', W'), the shift of each tap down and right, in cells.
            mask: (N, G * taps, H', W') factor of each tap; None: all taps count fully.

        Returns:
            (N, C', H', W').
        """
        use_mask = mask is not None
        if mask is None:
            # The operator does not read it, but checks its batch size.
            mask = x.new_zeros([x.shape[0], 1])
        x = torch.ops.torchvision.deform_conv2d(
            x,
            self.weight,
            offset,
            mask,
            x.new_zeros([self.weight.shape[0]]),
            self.stride,
            self.stride,
            self.padding,
            self.padding,
            self.dilation,
            self.dilation,
            self.groups,
            self.deformable_groups,
            use_mask,
        )
        bias = self.bias
        if bias is not None:
            x = x + bias[:, None, None]
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


class ModulatedDeformConv(DeformConv):
    """A ``DeformConv`` that is called with a mask, and has a bias unless ``bias`` is False."""

    modulated = True
