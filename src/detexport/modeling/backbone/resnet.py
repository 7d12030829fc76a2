"""Residual networks (He et al. 2016; ResNeXt: Xie et al. 2017).

Shapes: images are (N, C, H, W); ``res{k}`` has the stride 2**k (res2: 4 ... res5: 32). No convolution of a
block or stem has a bias, not even without a normalization, as in detectron2's checkpoints.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers import Conv2d, DeformConv, FrozenBatchNorm2d, ShapeSpec, get_norm
from detexport.layers.conv import init_conv_msra
from detexport.modeling.backbone.backbone import Backbone
from detexport.modeling.segment import BATCH, Layers, Segment, maps

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Residual blocks of res2..res5 by depth (table 1 of He et al. 2016)."""


class BasicStem(nn.Module):
    """A 7x7 convolution of stride 2, then 3x3 max pooling of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = Conv2d(
            in_channels,
            out_channels,
            7,
            stride=2,
            padding=3,
            bias=False,
            norm=get_norm(norm, out_channels),
            relu=True,
        )
        init_conv_msra(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/4, W/4)."""
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> Conv2d | None:
    """Return the projection of a shortcut, or None where the number of channels stays the same."""
    if in_channels == out_channels:
        return None
    shortcut = Conv2d(
        in_channels, out_channels, 1, stride=stride, bias=False, norm=get_norm(norm, out_channels)
    )
    init_conv_msra(shortcut)
    return shortcut


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = Conv2d(
            in_channels,
            out_channels,
            3,
            stride=stride,
            padding=1,
            bias=False,
            norm=get_norm(norm, out_channels),
            relu=True,
        )
        self.conv2 = Conv2d(
            out_channels, out_channels, 3, padding=1, bias=False, norm=get_norm(norm, out_channels)
        )
        for conv in (self.conv1, self.conv2):
            init_conv_msra(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        out = self.conv2(self.conv1(x))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return F.relu(out.add_(x), inplace=True)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (grouped, dilated), 1x1 convolutions and a shortcut (ResNet-50 and deeper)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int,
        groups: int,
        stride_in_1x1: bool,
        dilation: int,
        norm: str,
    ) -> None:
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = Conv2d(
            in_channels, width, 1, stride=stride_1x1, bias=False, norm=get_norm(norm, width), relu=True
        )
        self.conv2: nn.Module = Conv2d(
            width,
            width,
            3,
            stride=stride_3x3,
            padding=dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
            norm=get_norm(norm, width),
            relu=True,
        )
        self.conv3 = Conv2d(width, out_channels, 1, bias=False, norm=get_norm(norm, out_channels))
        for conv in (self.conv1, self.conv2, self.conv3):
            init_conv_msra(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        out = self.conv3(self.conv2(self.conv1(x)))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return F.relu(out.add_(x), inplace=True)


class DeformBottleneckBlock(BottleneckBlock):
    """A bottleneck whose 3x3 convolution is deformable; a plain convolution predicts the offsets.

    The offsets start at 0: a new block equals a plain one; a new modulated one halves the convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bottleneck_channels: channels of the 3x3 convolution.
        stride: stride of the block.
        groups: groups of the 3x3 convolution.
        stride_in_1x1: apply the stride in the first convolution, not in the 3x3 one.
        dilation: dilation of the 3x3 convolution.
        norm: name of the normalization.
        deform_modulated: also predict a weight per tap.
        deform_num_groups: groups of channels with separate offsets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int,
        groups: int,
        stride_in_1x1: bool,
        dilation: int,
        norm: str,
        deform_modulated: bool,
        deform_num_groups: int,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            bottleneck_channels=bottleneck_channels,
            stride=stride,
            groups=groups,
            stride_in_1x1=stride_in_1x1,
            dilation=dilation,
            norm=norm,
        )
        self.deform_modulated = deform_modulated
        taps: dict[str, Any] = {
            "stride": 1 if stride_in_1x1 else stride,
            "padding": dilation,
            "dilation": dilation,
        }
        # For each of the nine taps an offset in x and in y, and its weight.
        offset_channels = (27 if deform_modulated else 18) * deform_num_groups
        self.conv2_offset = nn.Conv2d(bottleneck_channels, offset_channels, 3, **taps)
        self.conv2 = DeformConv(
            bottleneck_channels,
            bottleneck_channels,
            3,
            groups=groups,
            deformable_groups=deform_num_groups,
            norm=get_norm(norm, bottleneck_channels),
            **taps,
        )
        for parameter in self.conv2_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        out = self.conv1(x)
        offset = self.conv2_offset(out)
        if self.deform_modulated:
            first, second, weights = torch.chunk(offset, 3, dim=1)
            out = self.conv2(out, torch.cat([first, second], dim=1), weights.sigmoid())
        else:
            out = self.conv2(out, offset)
        out = self.conv3(F.relu(out))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return F.relu(out + x)


def resnet_stages(
    *,
    depth: int,
    in_channels: int,
    out_channels: int,
    groups: int,
    width_per_group: int,
    stride_in_1x1: bool,
    res5_dilation: int,
    deform_on_per_stage: Sequence[bool],
    deform_modulated: bool,
    deform_num_groups: int,
    norm: str,
    last_stage: str,
) -> dict[str, tuple[nn.Sequential, ShapeSpec]]:
    """Build the stages ``res2`` .. ``last_stage`` of a ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of the stem's output.
        out_channels: channels of res2; each later stage doubles them.
        groups: groups of the 3x3 convolutions.
        width_per_group: channels per group in res2.
        stride_in_1x1: apply the stride of a bottleneck in its first convolution.
        res5_dilation: 2 keeps res5 at the stride 16.
        deform_on_per_stage: whether res2, res3, ... have deformable convolutions.
        deform_modulated: see ``DeformBottleneckBlock``.
        deform_num_groups: see ``DeformBottleneckBlock``.
        norm: name of the normalization.
        last_stage: ``res2`` .. ``res5``.

    Raises:
        ConfigError: the depth is unknown, or an option is not supported.
    """
    _check_stages(depth, groups, res5_dilation, deform_on_per_stage)
    stages: dict[str, tuple[nn.Sequential, ShapeSpec]] = {}
    bottleneck_channels = groups * width_per_group
    stride = 4
    for index, blocks in enumerate(BLOCKS_PER_STAGE[depth]):
        dilation = res5_dilation if index == 3 else 1
        first_stride = 1 if index == 0 or dilation == 2 else 2
        stride *= first_stride
        block_class: Callable[..., nn.Module] = BasicBlock
        options: dict[str, Any] = {}
        if depth >= 50:
            block_class = BottleneckBlock
            options = {
                "bottleneck_channels": bottleneck_channels,
                "groups": groups,
                "stride_in_1x1": stride_in_1x1,
                "dilation": dilation,
            }
        if deform_on_per_stage[index]:
            block_class = DeformBottleneckBlock
            options |= {"deform_modulated": deform_modulated, "deform_num_groups": deform_num_groups}
        modules: list[nn.Module] = []
        for block in range(blocks):
            block_stride = first_stride if block == 0 else 1
            modules.append(block_class(in_channels, out_channels, stride=block_stride, norm=norm, **options))
            in_channels = out_channels
        name = f"res{index + 2}"
        stages[name] = (nn.Sequential(*modules), ShapeSpec(channels=out_channels, stride=stride))
        if name == last_stage:
            break
        out_channels *= 2
        bottleneck_channels *= 2
    return stages


def _check_stages(depth: int, groups: int, res5_dilation: int, deform_on_per_stage: Sequence[bool]) -> None:
    if depth not in BLOCKS_PER_STAGE:
        raise ConfigError("unknown ResNet depth", got=depth, expected=sorted(BLOCKS_PER_STAGE))
    if len(deform_on_per_stage) != 4:
        raise ConfigError(
            "wrong number of values for deformable convolutions",
            got=f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: {list(deform_on_per_stage)}",
            expected="four values, for res2 .. res5",
        )
    if res5_dilation not in (1, 2):
        raise ConfigError(
            "unsupported dilation", got=f"MODEL.RESNETS.RES5_DILATION: {res5_dilation}", expected="1 or 2"
        )
    if depth in (18, 34) and ((groups, res5_dilation) != (1, 1) or any(deform_on_per_stage)):
        raise ConfigError(
            "the blocks of ResNet-18 and 34 have neither groups, nor dilation, nor deformable convolutions",
            got=f"MODEL.RESNETS.NUM_GROUPS: {groups}, MODEL.RESNETS.RES5_DILATION: {res5_dilation}, "
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: {list(deform_on_per_stage)}",
            expected="1, 1 and all False",
            remedy="correct them, or choose a depth of 50 or more",
        )


class ResNet(Backbone, nn.Sequential):
    """A residual network that returns the outputs of chosen stages.

    It is a ``Sequential``, since scripting can iterate over its named children.

    Args:
        stages: ``res2``, ``res3``, ... in order, each with the shape of its output.
        in_channels: channels of the image.
        stem_channels: channels of the stem's output.
        norm: name of the stem's normalization.
        out_features: names of the stages to return; may include ``stem``.
        freeze_at: 0 trains everything, 1 freezes the stem, k the stages up to res{k}.
    """

    def __init__(
        self,
        stages: dict[str, tuple[nn.Sequential, ShapeSpec]],
        *,
        in_channels: int,
        stem_channels: int,
        norm: str,
        out_features: tuple[str, ...],
        freeze_at: int,
    ) -> None:
        super().__init__()
        self.add_module("stem", BasicStem(in_channels, stem_channels, norm))
        self._shapes = {"stem": ShapeSpec(channels=stem_channels, stride=4)}
        for name, (stage, shape) in stages.items():
            self.add_module(name, stage)
            self._shapes[name] = shape
        unknown = set(out_features) - set(self._shapes)
        if unknown:
            raise ConfigError(
                "unknown ResNet stages",
                got=f"MODEL.RESNETS.OUT_FEATURES: {sorted(unknown)}",
                expected=sorted(self._shapes),
            )
        self.stage_names: List[str] = list(self._shapes)
        self.out_features: List[str] = list(out_features)
        # The network itself needs no padding.
        self.size_divisibility = 0
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return the outputs of the chosen stages by name, for images (N, C, H, W)."""
        outputs: Dict[str, Tensor] = {}
        for index, stage in enumerate(self):
            x = stage(x)
            name = self.stage_names[index]
            if name in self.out_features:
                outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output by name."""
        return {name: self._shapes[name] for name in self.out_features}

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return one segment per stage."""
        return [
            Segment(name, Layers(getattr(self, name)), maps(before), maps(name))
            for before, name in pairwise([BATCH[0].name, *self.stage_names])
        ]

    def freeze(self, freeze_at: int) -> None:
        """Freeze the stem (1) and the stages up to res{freeze_at}, with their batch normalizations."""
        for level, name in enumerate(self._shapes, start=1):
            if freeze_at >= level:
                for parameter in getattr(self, name).parameters():
                    parameter.requires_grad = False
                _freeze_batch_norms(getattr(self, name))


def _freeze_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze_batch_norms(child)
