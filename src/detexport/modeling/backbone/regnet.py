"""RegNet (Radosavovic et al. 2020, arXiv:2003.13678): residual stages whose widths follow a linear rule.

Shapes: images are (N, C, H, W); ``stem`` has the stride 2, ``s{k}`` in ``RegNet`` the stride 2**(k + 1).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Dict

import numpy as np
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers import CNNBlockBase, get_norm
from detexport.layers.conv import init_conv_msra
from detexport.modeling.backbone.backbone import Backbone, freeze_stages, require_stages

Norm = str | Callable[[int], nn.Module]
Activation = Callable[[], nn.Module]
WIDTH_STEP = 8
"""Widths of the stages are multiples of this."""


def _conv(
    w_in: int, w_out: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    conv = nn.Conv2d(w_in, w_out, kernel, stride=stride, padding=(kernel - 1) // 2, groups=groups, bias=bias)
    init_conv_msra(conv)
    return conv


class SimpleStem(CNNBlockBase):
    """A 3x3 convolution of stride 2.

    Args:
        w_in: channels of the image.
        w_out: channels of the output.
        norm: name of the normalization.
        activation_class: class of the activation.
    """

    kernel, total_stride = 3, 2

    def __init__(self, w_in: int, w_out: int, norm: Norm, activation_class: Activation) -> None:
        super().__init__(w_in, w_out, self.total_stride)
        self.conv = _conv(w_in, w_out, self.kernel, stride=2)
        self.bn: Any = get_norm(norm, w_out)
        self.af = activation_class()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/2, W/2)."""
        return self.af(self.bn(self.conv(x)))


class ResStem(SimpleStem):
    """The stem of a ResNet: a 7x7 convolution of stride 2, then 3x3 max pooling of stride 2.

    Args:
        w_in: see ``SimpleStem``; so are the other arguments.
    """

    kernel, total_stride = 7, 4

    def __init__(self, w_in: int, w_out: int, norm: Norm, activation_class: Activation) -> None:
        super().__init__(w_in, w_out, norm, activation_class)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/4, W/4)."""
        return self.pool(self.af(self.bn(self.conv(x))))


class SE(nn.Module):
    """Scale the channels by a gate of their means (squeeze and excitation, Hu et al. 2018).

    Args:
        w_in: channels.
        w_se: channels between the two layers of the gate.
        activation_class: class of the activation between them.
    """

    def __init__(self, w_in: int, w_se: int, activation_class: Activation) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.f_ex = nn.Sequential(
            _conv(w_in, w_se, 1, bias=True), activation_class(), _conv(w_se, w_in, 1, bias=True), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        return x * self.f_ex(self.avg_pool(x))


class BasicTransform(CNNBlockBase):
    """The residual of ``ResBasicBlock``: two 3x3 convolutions.

    Args:
        w_in: channels of the input.
        w_out: channels of the output.
        stride: of the first convolution.
        norm: name of the normalization.
        activation_class: class of the activation.
        **_params: options of other blocks, not used.
    """

    def __init__(
        self, w_in: int, w_out: int, stride: int, norm: Norm, activation_class: Activation, **_params: Any
    ) -> None:
        super().__init__(w_in, w_out, stride)
        self.a = _conv(w_in, w_out, 3, stride=stride)
        self.a_bn: Any = get_norm(norm, w_out)
        self.a_af = activation_class()
        self.b = _conv(w_out, w_out, 3)
        self.b_bn: Any = get_norm(norm, w_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        return self.b_bn(self.b(self.a_af(self.a_bn(self.a(x)))))


class VanillaBlock(BasicTransform):
    """A ``BasicTransform`` and an activation, without a shortcut.

    Args:
        w_in: see ``BasicTransform``; so are the other arguments.
        w_out: channels of the output.
        stride: of the first convolution.
        norm: name of the normalization.
        activation_class: class of the activations.
        **_params: options of other blocks, not used.
    """

    def __init__(
        self, w_in: int, w_out: int, stride: int, norm: Norm, activation_class: Activation, **_params: Any
    ) -> None:
        super().__init__(w_in, w_out, stride, norm, activation_class)
        self.b_af = activation_class()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        return self.b_af(super().forward(x))


class BottleneckTransform(nn.Module):
    """The residual of ``ResBottleneckBlock``: 1x1, grouped 3x3, optional gate of the channels, 1x1.

    Args:
        w_in: channels of the input.
        w_out: channels of the output.
        stride: of the 3x3 convolution.
        norm: name of the normalization.
        activation_class: class of the activation.
        bottleneck_ratio: channels of the 3x3 convolution, relative to ``w_out``.
        group_width: channels of a group.
        se_ratio: channels of the gate between its layers, relative to ``w_in``; 0 for no gate.
    """

    def __init__(
        self,
        w_in: int,
        w_out: int,
        stride: int,
        norm: Norm,
        activation_class: Activation,
        bottleneck_ratio: float,
        group_width: int,
        se_ratio: float,
    ) -> None:
        super().__init__()
        width = round(w_out * bottleneck_ratio)
        gate_width = round(w_in * se_ratio)
        self.a = _conv(w_in, width, 1)
        self.a_bn: Any = get_norm(norm, width)
        self.a_af = activation_class()
        self.b = _conv(width, width, 3, stride=stride, groups=width // group_width)
        self.b_bn: Any = get_norm(norm, width)
        self.b_af = activation_class()
        self.se: Any = SE(width, gate_width, activation_class) if gate_width else None
        self.c = _conv(width, w_out, 1)
        self.c_bn: Any = get_norm(norm, w_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        out = self.b_af(self.b_bn(self.b(self.a_af(self.a_bn(self.a(x))))))
        if self.se is not None:
            out = self.se(out)
        return self.c_bn(self.c(out))


class ResBasicBlock(CNNBlockBase):
    """A residual and a shortcut, which is a projection where the shape changes, then the activation.

    Args:
        w_in: channels of the input.
        w_out: channels of the output.
        stride: of the block.
        norm: name of the normalization.
        activation_class: class of the activation.
        **params: options of the residual.
    """

    transform: Callable[..., nn.Module] = BasicTransform

    def __init__(
        self, w_in: int, w_out: int, stride: int, norm: Norm, activation_class: Activation, **params: Any
    ) -> None:
        super().__init__(w_in, w_out, stride)
        self.proj: Any = None
        self.bn: Any = None
        if w_in != w_out or stride != 1:
            self.proj = _conv(w_in, w_out, 1, stride=stride)
            self.bn = get_norm(norm, w_out)
        self.f = type(self).transform(w_in, w_out, stride, norm, activation_class, **params)
        self.af = activation_class()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        shortcut = x
        if self.proj is not None:
            shortcut = self.bn(self.proj(x))
        return self.af(shortcut + self.f(x))


class ResBottleneckBlock(ResBasicBlock):
    """A ``ResBasicBlock`` whose residual is a ``BottleneckTransform``."""

    transform = BottleneckTransform


class AnyNet(Backbone):
    """A stem and stages of equal blocks.

    Args:
        stem_class: class of the stem.
        stem_width: channels of the stem.
        block_class: class of the blocks.
        depths: number of blocks of each stage.
        widths: channels of each stage.
        group_widths: channels of a group of each stage.
        strides: stride of each stage.
        bottleneck_ratios: see ``BottleneckTransform``, of each stage.
        se_ratio: see ``BottleneckTransform``.
        activation_class: class of the activations; by default ReLU.
        freeze_at: 0 trains everything, 1 freezes the stem, k + 1 also the stages up to s{k}.
        norm: name of the normalization.
        out_features: names of the stages to return; may include ``stem``. By default the last stage.
    """

    def __init__(
        self,
        *,
        stem_class: Callable[..., CNNBlockBase],
        stem_width: int,
        block_class: Callable[..., CNNBlockBase],
        depths: Sequence[int],
        widths: Sequence[int],
        group_widths: Sequence[int],
        strides: Sequence[int],
        bottleneck_ratios: Sequence[float],
        se_ratio: float,
        activation_class: Activation | None = None,
        freeze_at: int = 0,
        norm: Norm = "BN",
        out_features: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        activation = activation_class or _relu
        self.stem = stem_class(3, stem_width, norm, activation)
        channels, stride = {"stem": stem_width}, {"stem": self.stem.stride}
        w_in, total_stride = stem_width, self.stem.stride
        stages = zip(depths, widths, group_widths, strides, bottleneck_ratios, strict=True)
        for number, (depth, width, group_width, stage_stride, ratio) in enumerate(stages, start=1):
            params = {"bottleneck_ratio": ratio, "group_width": group_width, "se_ratio": se_ratio}
            stage = nn.Sequential()
            for index in range(depth):
                first = index == 0
                block = block_class(
                    w_in if first else width, width, stage_stride if first else 1, norm, activation, **params
                )
                stage.add_module(f"b{index + 1}", block)
            self.add_module(f"s{number}", stage)
            w_in, total_stride = width, total_stride * stage_stride
            channels[f"s{number}"], stride[f"s{number}"] = width, total_stride
        self.stage_names = list(channels)
        chosen = [self.stage_names[-1]] if out_features is None else list(out_features)
        require_stages(chosen, channels, "RegNet")
        self._out_features = chosen
        self._out_feature_channels = {name: channels[name] for name in chosen}
        self._out_feature_strides = {name: stride[name] for name in chosen}
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return the outputs of the chosen stages by name, for images (N, C, H, W)."""
        outputs: Dict[str, Tensor] = {}
        for name in self.stage_names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def freeze(self, freeze_at: int = 0) -> "AnyNet":
        """Freeze the stem (1) and the stages up to s{freeze_at - 1}, with their batch normalizations."""
        freeze_stages(self, self.stage_names, freeze_at)
        return self


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


class RegNet(AnyNet):
    """An ``AnyNet`` whose widths are a quantized linear function of the index of the block.

    Args:
        stem_class: see ``AnyNet``.
        stem_width: see ``AnyNet``.
        block_class: see ``AnyNet``.
        depth: number of blocks.
        w_a: slope of the widths.
        w_0: width of the first block.
        w_m: factor from one width to the next, before they are rounded.
        group_width: channels of a group.
        stride: of each stage.
        bottleneck_ratio: see ``BottleneckTransform``.
        se_ratio: see ``BottleneckTransform``.
        activation_class: see ``AnyNet``.
        freeze_at: see ``AnyNet``.
        norm: see ``AnyNet``.
        out_features: see ``AnyNet``.
    """

    def __init__(
        self,
        *,
        stem_class: Callable[..., CNNBlockBase],
        stem_width: int,
        block_class: Callable[..., CNNBlockBase],
        depth: int,
        w_a: float,
        w_0: float,
        w_m: float,
        group_width: int,
        stride: int = 2,
        bottleneck_ratio: float = 1.0,
        se_ratio: float = 0.0,
        activation_class: Activation | None = None,
        freeze_at: int = 0,
        norm: Norm = "BN",
        out_features: Sequence[str] | None = None,
    ) -> None:
        widths, depths = regnet_widths(depth, w_a, w_0, w_m)
        fitting = [_fit_groups(width, bottleneck_ratio, group_width) for width in widths]
        super().__init__(
            stem_class=stem_class,
            stem_width=stem_width,
            block_class=block_class,
            depths=depths,
            widths=[width for width, _ in fitting],
            group_widths=[group for _, group in fitting],
            strides=[stride] * len(widths),
            bottleneck_ratios=[bottleneck_ratio] * len(widths),
            se_ratio=se_ratio,
            activation_class=activation_class,
            freeze_at=freeze_at,
            norm=norm,
            out_features=out_features,
        )


def regnet_widths(depth: int, w_a: float, w_0: float, w_m: float) -> tuple[list[int], list[int]]:
    """Return the widths of the stages and their numbers of blocks (section 3.3 of the paper).

    Args:
        depth: number of blocks.
        w_a: slope of the widths.
        w_0: width of the first block.
        w_m: factor from one width to the next, before they are rounded.

    Raises:
        ConfigError: a number is out of range.
    """
    if w_a < 0 or w_0 <= 0 or w_m <= 1 or w_0 % WIDTH_STEP:
        raise ConfigError(
            "the widths of a RegNet are out of range",
            got=f"w_a={w_a}, w_0={w_0}, w_m={w_m}",
            expected=f"w_a >= 0, w_0 a positive multiple of {WIDTH_STEP}, w_m > 1",
            remedy="correct w_a, w_0 or w_m",
        )
    linear = w_0 + w_a * np.arange(depth)
    powers = np.round(np.log(linear / w_0) / np.log(w_m))
    quantized = np.round(w_0 * np.power(w_m, powers) / WIDTH_STEP) * WIDTH_STEP
    widths, depths = np.unique(quantized.astype(int), return_counts=True)
    return widths.tolist(), depths.tolist()


def _fit_groups(width: int, bottleneck_ratio: float, group_width: int) -> tuple[int, int]:
    """Return width and group width, adjusted so that whole groups fit into the bottleneck."""
    bottleneck = int(max(1, width * bottleneck_ratio))
    group = min(group_width, bottleneck)
    step = math.lcm(group, int(bottleneck_ratio)) if bottleneck_ratio > 1 else group
    bottleneck = max(step, round(bottleneck / step) * step)
    return int(bottleneck / bottleneck_ratio), group
