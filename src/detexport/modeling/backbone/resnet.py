"""Residual networks (He et al. 2016; ResNeXt: Xie et al. 2017).

Shapes: images are (N, C, H, W); ``res{k}`` has the stride 2**k (res2: 4 ... res5: 32). No convolution of a
block or stem has a bias, not even without a normalization, as in detectron2's checkpoints.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import CNNBlockBase, DeformConv, ShapeSpec, get_norm
from detexport.layers.conv import Conv2d, init_conv_msra
from detexport.modeling.backbone.backbone import Backbone, freeze_stages, require_stages
from detexport.modeling.graph_segment import BATCH, Layers, Segment, maps
from detexport.modeling.registries import BACKBONE_REGISTRY

Norm = str | Callable[[int], nn.Module]

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Residual blocks of res2..res5 by depth (table 1 of He et al. 2016)."""


def normalized_conv(
    in_channels: int, out_channels: int, kernel_size: int, norm: Norm, **options: Any
) -> Conv2d:
    """Return a convolution without a bias, followed by a normalization.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps per side.
        norm: name of the normalization.
        **options: see ``Conv2d``.
    """
    return Conv2d(
        in_channels, out_channels, kernel_size, bias=False, norm=get_norm(norm, out_channels), **options
    )


class BasicStem(CNNBlockBase):
    """A 7x7 convolution of stride 2, then 3x3 max pooling of stride 2.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output.
        norm: name of the normalization.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = normalized_conv(in_channels, out_channels, 7, norm, stride=2, padding=3, relu=True)
        init_conv_msra(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/4, W/4)."""
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> Conv2d | None:
    """Return the projection of a shortcut, or None where the number of channels stays the same."""
    if in_channels == out_channels:
        return None
    shortcut = normalized_conv(in_channels, out_channels, 1, norm, stride=stride)
    init_conv_msra(shortcut)
    return shortcut


class BasicBlock(CNNBlockBase):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the block.
        norm: name of the normalization.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = normalized_conv(in_channels, out_channels, 3, norm, stride=stride, padding=1, relu=True)
        self.conv2 = normalized_conv(out_channels, out_channels, 3, norm, padding=1)
        for conv in (self.conv1, self.conv2):
            init_conv_msra(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        out = self.conv2(self.conv1(x))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return F.relu(out.add_(x), inplace=True)


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 (grouped, dilated), 1x1 convolutions and a shortcut (ResNet-50 and deeper).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bottleneck_channels: channels of the 3x3 convolution.
        stride: stride of the block.
        num_groups: groups of the 3x3 convolution.
        norm: name of the normalization.
        stride_in_1x1: apply the stride in the first convolution, not in the 3x3 one.
        dilation: dilation of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = normalized_conv(in_channels, width, 1, norm, stride=stride_1x1, relu=True)
        self.conv2: nn.Module = normalized_conv(
            width,
            width,
            3,
            norm,
            stride=stride_3x3,
            padding=dilation,
            dilation=dilation,
            groups=num_groups,
            relu=True,
        )
        self.conv3 = normalized_conv(width, out_channels, 1, norm)
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
        deform_modulated: also predict a weight per tap.
        deform_num_groups: groups of channels with separate offsets.
        **bottleneck: see ``BottleneckBlock``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
        **bottleneck: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, **bottleneck)
        self.deform_modulated = deform_modulated
        plain: Any = self.conv2
        taps = {
            "stride": plain.stride[0],
            "padding": plain.padding[0],
            "dilation": plain.dilation[0],
        }
        # For each of the nine taps an offset in x and in y, and its weight.
        offset_channels = (27 if deform_modulated else 18) * deform_num_groups
        self.conv2_offset = nn.Conv2d(plain.in_channels, offset_channels, 3, **taps)
        self.conv2 = DeformConv(
            plain.in_channels,
            plain.out_channels,
            3,
            groups=plain.groups,
            deformable_groups=deform_num_groups,
            norm=plain.norm,
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


def make_stage(
    block_class: Callable[..., CNNBlockBase],
    num_blocks: int,
    *,
    in_channels: int,
    out_channels: int,
    **kwargs: Any,
) -> list[CNNBlockBase]:
    """Build the blocks of a stage.

    Args:
        block_class: called with ``in_channels``, ``out_channels`` and the options of the block.
        num_blocks: number of blocks.
        in_channels: channels of the first block's input; the other blocks have ``out_channels``.
        out_channels: channels of each block's output.
        **kwargs: options of all blocks; ``NAME_per_block`` has one value of ``NAME`` for each.

    Raises:
        ConfigError: an option per block has another number of values.
    """
    per_block = {name: value for name, value in kwargs.items() if name.endswith("_per_block")}
    for name, values in per_block.items():
        if len(values) != num_blocks:
            raise ConfigError(
                "wrong number of values for the blocks of a stage",
                got=f"{name}: {len(values)} values",
                expected=f"{num_blocks}, one for each block",
                remedy="give one value for each block",
            )
    common = {name: value for name, value in kwargs.items() if name not in per_block}
    blocks = []
    for index in range(num_blocks):
        own = {name.removesuffix("_per_block"): values[index] for name, values in per_block.items()}
        channels = in_channels if index == 0 else out_channels
        blocks.append(block_class(in_channels=channels, out_channels=out_channels, **common, **own))
    return blocks


def make_default_stages(
    depth: int, block_class: Callable[..., CNNBlockBase] | None = None, **kwargs: Any
) -> list[list[CNNBlockBase]]:
    """Build the stages res2 .. res5 of a standard ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
        block_class: class of the blocks; by default ``BasicBlock`` to depth 34, else ``BottleneckBlock``.
        **kwargs: options of all blocks, such as ``norm``. Channels and strides are those of He et al. 2016.

    Raises:
        ConfigError: the depth is unknown.
    """
    _check_depth(depth)
    wide = depth >= 50
    block_class = block_class or (BottleneckBlock if wide else BasicBlock)
    stages: list[list[CNNBlockBase]] = []
    in_channels, out_channels = 64, 256 if wide else 64
    for index, blocks in enumerate(BLOCKS_PER_STAGE[depth]):
        options = {"bottleneck_channels": out_channels // 4, **kwargs} if wide else kwargs
        strides = [1 if index == 0 else 2] + [1] * (blocks - 1)
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        stages.append(make_stage(block_class, blocks, stride_per_block=strides, **channels, **options))
        in_channels, out_channels = out_channels, 2 * out_channels
    return stages


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
    res4_dilation: int = 1,
    res5_multi_grid: Sequence[int] = (1,),
) -> dict[str, list[CNNBlockBase]]:
    """Build the stages ``res2`` .. ``last_stage`` of a ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of the stem's output.
        out_channels: channels of res2; each later stage doubles them.
        groups: groups of the 3x3 convolutions.
        width_per_group: channels per group in res2.
        stride_in_1x1: apply the stride of a bottleneck in its first convolution.
        res5_dilation: 2 keeps res5 at the stride 16; 4, after a dilated res4, at the stride 8.
        deform_on_per_stage: whether res2, res3, ... have deformable convolutions.
        deform_modulated: see ``DeformBottleneckBlock``.
        deform_num_groups: see ``DeformBottleneckBlock``.
        norm: name of the normalization.
        last_stage: ``res2`` .. ``res5``.
        res4_dilation: 2 keeps res4 at the stride 8.
        res5_multi_grid: factor of res5's dilation for each block, or one for all.

    Raises:
        ConfigError: the depth is unknown, or an option is not supported.
    """
    _check_stages(depth, groups, (res4_dilation, res5_dilation), deform_on_per_stage)
    dilations, grids = (1, 1, res4_dilation, res5_dilation), ((1,), (1,), (1,), res5_multi_grid)
    stages: dict[str, list[CNNBlockBase]] = {}
    bottleneck_channels = groups * width_per_group
    for index, blocks in enumerate(BLOCKS_PER_STAGE[depth]):
        dilation = dilations[index]
        first_stride = 1 if index == 0 or dilation > 1 else 2
        block_class: Callable[..., CNNBlockBase] = BasicBlock
        options: dict[str, Any] = {"norm": norm, "stride_per_block": [first_stride] + [1] * (blocks - 1)}
        if depth >= 50:
            block_class = BottleneckBlock
            options |= {
                "bottleneck_channels": bottleneck_channels,
                "num_groups": groups,
                "stride_in_1x1": stride_in_1x1,
                "dilation_per_block": _block_dilations(dilation, grids[index], blocks),
            }
        if deform_on_per_stage[index]:
            block_class = DeformBottleneckBlock
            options |= {"deform_modulated": deform_modulated, "deform_num_groups": deform_num_groups}
        name = f"res{index + 2}"
        stages[name] = make_stage(
            block_class, blocks, in_channels=in_channels, out_channels=out_channels, **options
        )
        if name == last_stage:
            break
        in_channels = out_channels
        out_channels *= 2
        bottleneck_channels *= 2
    return stages


def _check_depth(depth: int) -> None:
    if depth not in BLOCKS_PER_STAGE:
        raise ConfigError(
            "unknown ResNet depth",
            got=depth,
            expected=sorted(BLOCKS_PER_STAGE),
            remedy="correct MODEL.RESNETS.DEPTH",
        )


def _block_dilations(dilation: int, grid: Sequence[int], blocks: int) -> list[int]:
    """Return the dilation of each block of a stage (the multi-grid of Chen et al. 2017, arXiv:1706.05587)."""
    if len(grid) not in (1, blocks):
        raise ConfigError(
            "wrong number of values for the blocks of res5",
            got=f"MODEL.RESNETS.RES5_MULTI_GRID: {list(grid)}",
            expected=f"{blocks}, one for each block",
            remedy="correct MODEL.RESNETS.RES5_MULTI_GRID",
        )
    return [dilation * factor for factor in (grid if len(grid) == blocks else [grid[0]] * blocks)]


def _check_stages(
    depth: int, groups: int, dilations: tuple[int, int], deform_on_per_stage: Sequence[bool]
) -> None:
    _check_depth(depth)
    if len(deform_on_per_stage) != 4:
        raise ConfigError(
            "wrong number of values for deformable convolutions",
            got=f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: {list(deform_on_per_stage)}",
            expected="four values, for res2 .. res5",
            remedy="correct MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        )
    if dilations not in ((1, 1), (1, 2), (1, 4), (2, 4)):
        raise ConfigError(
            "unsupported dilation",
            got=f"dilation {dilations[0]} of res4, MODEL.RESNETS.RES5_DILATION: {dilations[1]}",
            expected="1 and 1, 1 and 2, 1 and 4, or 2 and 4",
            remedy="correct MODEL.RESNETS.RES4_DILATION or MODEL.RESNETS.RES5_DILATION",
        )
    if depth in (18, 34) and ((groups, *dilations) != (1, 1, 1) or any(deform_on_per_stage)):
        raise ConfigError(
            "the blocks of ResNet-18 and 34 have neither groups, nor dilation, nor deformable convolutions",
            got=f"MODEL.RESNETS.NUM_GROUPS: {groups}, MODEL.RESNETS.RES5_DILATION: {dilations[1]}, "
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: {list(deform_on_per_stage)}",
            expected="1, 1 and all False",
            remedy="correct them, or choose a depth of 50 or more",
        )


class ResNet(Backbone, nn.Sequential):
    """A residual network that returns the outputs of chosen stages.

    It is a ``Sequential``, since scripting can iterate over its named children.

    Args:
        stem: image -> input of the first stage.
        stages: the blocks of each stage in order; they become ``res2``, ``res3``, ... Those after the last of
            ``out_features`` are left out.
        num_classes: not supported: a network without a classifier.
        out_features: names of the stages to return; may include ``stem``. By default the last stage.
        freeze_at: 0 trains everything, 1 freezes the stem, k the stages up to res{k}.
    """

    make_stage = staticmethod(make_stage)
    make_default_stages = staticmethod(make_default_stages)

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        if num_classes is not None:
            raise ConfigError(
                "a ResNet is a backbone here, without a classifier",
                got=f"num_classes={num_classes}",
                expected="num_classes=None",
                remedy="leave num_classes out, and classify with a layer of your own",
            )
        names = ["stem", *(f"res{number}" for number in range(2, 2 + len(stages)))]
        out_features = names[-1:] if out_features is None else out_features
        require_stages(out_features, names, "ResNet", "MODEL.RESNETS.OUT_FEATURES")
        self.add_module("stem", stem)
        self._shapes = {"stem": ShapeSpec(channels=stem.out_channels, stride=stem.stride)}
        stride = stem.stride
        last = max(map(names.index, out_features), default=len(stages))
        for name, blocks in zip(names[1:], stages[:last], strict=False):
            self.add_module(name, nn.Sequential(*blocks))
            stride *= math.prod(block.stride for block in blocks)
            self._shapes[name] = ShapeSpec(channels=blocks[-1].out_channels, stride=stride)
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

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Freeze the stem (1) and the stages up to res{freeze_at}, with their batch normalizations."""
        freeze_stages(self, self.stage_names, freeze_at)
        return self


def configured_stages(
    cfg: CfgNode, last_stage: str, depth: int, **dilations: Any
) -> dict[str, list[CNNBlockBase]]:
    """Build the stages ``res2`` .. ``last_stage`` of a ResNet as ``MODEL.RESNETS`` configures it.

    Args:
        cfg: a configuration.
        last_stage: see ``resnet_stages``.
        depth: see ``resnet_stages``.
        **dilations: ``res4_dilation`` and ``res5_multi_grid`` of ``resnet_stages``.
    """
    resnets = cfg.MODEL.RESNETS
    return resnet_stages(
        depth=depth,
        in_channels=resnets.STEM_OUT_CHANNELS,
        out_channels=resnets.RES2_OUT_CHANNELS,
        groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        res5_dilation=resnets.RES5_DILATION,
        deform_on_per_stage=tuple(resnets.DEFORM_ON_PER_STAGE),
        deform_modulated=resnets.DEFORM_MODULATED,
        deform_num_groups=resnets.DEFORM_NUM_GROUPS,
        norm=resnets.NORM,
        last_stage=last_stage,
        **dilations,
    )


def last_output(cfg: CfgNode) -> str:
    """Return the last stage of ``MODEL.RESNETS.OUT_FEATURES``.

    Raises:
        ConfigError: it names none.
    """
    names = cfg.MODEL.RESNETS.OUT_FEATURES
    if not names:
        raise ConfigError(
            "MODEL.RESNETS.OUT_FEATURES names no stage",
            got="none",
            expected="some of stem, res2, ..., res5",
            remedy="name them in MODEL.RESNETS.OUT_FEATURES",
        )
    return str(max(names, key=lambda name: (name != "stem", name)))


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet or ResNeXt, frozen up to ``MODEL.BACKBONE.FREEZE_AT``."""
    resnets = cfg.MODEL.RESNETS
    if resnets.RES5_DILATION not in (1, 2):
        raise ConfigError(
            "unsupported dilation",
            got=f"MODEL.RESNETS.RES5_DILATION: {resnets.RES5_DILATION}",
            expected="1 or 2",
            remedy="correct MODEL.RESNETS.RES5_DILATION, or choose build_resnet_deeplab_backbone",
        )
    stages = list(configured_stages(cfg, last_output(cfg), resnets.DEPTH).values())
    return ResNet(
        BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM),
        stages,
        out_features=tuple(resnets.OUT_FEATURES),
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
