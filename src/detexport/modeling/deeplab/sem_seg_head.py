"""Semantic heads of DeepLabV3 and V3+.

Shapes: N images, K classes.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Dict, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ASPP, DepthwiseSeparableConv2d, ShapeSpec, get_norm
from detexport.layers.conv import Conv2d, OneChannelConv2d, init_normal, init_xavier, shapes_of
from detexport.modeling.deeplab.loss import check_loss_type, deeplab_loss
from detexport.modeling.graph_segment import Segment
from detexport.modeling.meta_arch.semantic_seg import SemSegHead, upsampled_segments
from detexport.modeling.registries import SEM_SEG_HEADS_REGISTRY

PREDICTOR_STD = 0.001
"""Standard deviation of the initial weights of a predictor."""


class DecoderStage(nn.Module):
    """A level of the decoder: the projection of a feature map, fused with the coarser level.

    Args:
        project_conv: feature map -> projection.
        fuse_conv: the projection and the coarser level -> this level; None for the coarsest.
    """

    def __init__(self, project_conv: nn.Module, fuse_conv: nn.Module | None) -> None:
        super().__init__()
        self.project_conv = project_conv
        self.fuse_conv = fuse_conv

    def forward(self, feature: Tensor, coarser: Optional[Tensor]) -> Tensor:
        """Map (N, C, H, W) and the coarser level, if any, to (N, C', H, W)."""
        x = self.project_conv(feature)
        if self.fuse_conv is not None and coarser is not None:
            size = [x.shape[2], x.shape[3]]
            coarser = F.interpolate(coarser, size=size, mode="bilinear", align_corners=False)
            x = self.fuse_conv(torch.cat([x, coarser], dim=1))
        return x


class Decoder(nn.Sequential):
    """ASPP over the coarsest feature map, fused with projections of the finer ones from coarse to fine.

    The children are the stages by the name of their feature map, from the coarsest to the finest, since
    scripting can iterate over children.

    Args:
        input_shape: feature maps by name.
        project_channels: channels of the projections, from fine to coarse; the coarsest map has none.
        aspp_dilations: see ``ASPP``.
        aspp_dropout: see ``ASPP``.
        decoder_channels: channels of each level, from fine to coarse; the last are those of ASPP.
        norm: name of the normalization.
        train_size: see ``aspp_window``.
        use_depthwise_separable_conv: use depthwise separable convolutions.

    Raises:
        ConfigError: the numbers of channels do not fit the feature maps, or ``train_size`` does not.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        project_channels: Sequence[int],
        aspp_dilations: Sequence[int],
        aspp_dropout: float,
        decoder_channels: Sequence[int],
        norm: Any,
        train_size: tuple[int, int] | None,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        super().__init__()
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        if len(project_channels) != len(shapes) - 1 or len(decoder_channels) != len(shapes):
            raise ConfigError(
                "the channels of the decoder do not fit its feature maps",
                got=f"PROJECT_CHANNELS: {list(project_channels)} for {[name for name, _ in shapes]}",
                expected=f"{len(shapes) - 1} numbers: one for each feature map but the coarsest",
                remedy="correct PROJECT_CHANNELS or IN_FEATURES",
            )
        name, shape = shapes[-1]
        aspp = build_aspp(
            shape,
            decoder_channels[-1],
            dilations=aspp_dilations,
            norm=norm,
            train_size=train_size,
            dropout=aspp_dropout,
            use_depthwise_separable_conv=use_depthwise_separable_conv,
        )
        self.add_module(name, DecoderStage(aspp, None))
        channels = decoder_channels[-1]
        for index in reversed(range(len(shapes) - 1)):
            name, shape = shapes[index]
            projection, width = project_channels[index], decoder_channels[index]
            fuse = _fuse_conv(projection + channels, width, norm, use_depthwise_separable_conv)
            stage = DecoderStage(_conv(shape.channels, projection, 1, norm), fuse)
            self.add_module(name, stage)
            channels = width
        self.feature_names: List[str] = [name for name, _ in reversed(shapes)]

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Return the finest level (N, C, H, W), for feature maps by name."""
        level: Optional[Tensor] = None
        for index, stage in enumerate(self):
            level = stage(features[self.feature_names[index]], level)
        assert level is not None
        return level


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: Any) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        norm=get_norm(norm, out_channels),
        relu=True,
    )
    init_xavier(conv)
    return conv


def _fuse_conv(in_channels: int, out_channels: int, norm: Any, separable: bool) -> nn.Module:
    """Return two 3x3 convolutions, or one separable 5x5 convolution, which sees as many pixels."""
    if not separable:
        return nn.Sequential(
            _conv(in_channels, out_channels, 3, norm), _conv(out_channels, out_channels, 3, norm)
        )
    return separable_conv(in_channels, out_channels, 5, norm)


def separable_conv(in_channels: int, out_channels: int, kernel_size: int, norm: Any) -> nn.Module:
    """Return a depthwise separable convolution, with normalization and ReLU after both convolutions."""
    return DepthwiseSeparableConv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        norm1=norm,
        activation1=F.relu,
        norm2=norm,
        activation2=F.relu,
    )


def head_convs(in_channels: int, out_channels: int, norm: Any, separable: bool) -> nn.Module:
    """Return the layers between a decoder and a predictor of Panoptic-DeepLab."""
    if separable:
        return separable_conv(in_channels, out_channels, 5, norm)
    return nn.Sequential(_conv(in_channels, in_channels, 3, norm), _conv(in_channels, out_channels, 3, norm))


def predictor(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return the 1x1 convolution that predicts ``out_channels`` values of each cell."""
    conv = OneChannelConv2d(in_channels, 1) if out_channels == 1 else nn.Conv2d(in_channels, out_channels, 1)
    init_normal(conv, std=PREDICTOR_STD)
    return conv


def build_aspp(
    shape: ShapeSpec,
    out_channels: int,
    *,
    dilations: Sequence[int],
    norm: Any,
    train_size: tuple[int, int] | None,
    dropout: float,
    use_depthwise_separable_conv: bool,
) -> ASPP:
    """Build the ASPP over a feature map.

    Args:
        shape: of the feature map.
        out_channels: see ``ASPP``; so are ``dilations``, ``dropout`` and ``use_depthwise_separable_conv``.
        dilations: of the 3x3 convolutions.
        norm: name of the normalization.
        train_size: see ``aspp_window``.
        dropout: probability in training.
        use_depthwise_separable_conv: use depthwise separable convolutions.
    """
    return ASPP(
        shape.channels,
        out_channels,
        dilations,
        norm=norm,
        activation=F.relu,
        pool_kernel_size=aspp_window(train_size, shape.stride),
        dropout=dropout,
        use_depthwise_separable_conv=use_depthwise_separable_conv,
        # detectron2 refuses other sizes than multiples of the crop's; for those both agree.
        pad_to_window=True,
    )


def aspp_window(train_size: tuple[int, int] | None, stride: int) -> tuple[int, int] | None:
    """Return the window that ASPP pools, in cells of ``stride`` px; None for the whole map.

    Args:
        train_size: height and width in px of the crops in training; None without crops.
        stride: of ASPP's feature map in px.

    Raises:
        ConfigError: the stride does not divide the size.
    """
    if train_size is None:
        return None
    if train_size[0] % stride or train_size[1] % stride:
        raise ConfigError(
            "the training crop size is not a multiple of ASPP's stride",
            got=f"INPUT.CROP.SIZE: {list(train_size)}",
            expected=f"multiples of {stride}",
            remedy="correct INPUT.CROP.SIZE, or set INPUT.CROP.ENABLED to False",
        )
    return train_size[0] // stride, train_size[1] // stride


def crop_size(cfg: CfgNode) -> tuple[int, int] | None:
    """Return height and width in px of the crops in training; None without crops.

    Raises:
        ConfigError: they are not given in px.
    """
    crop = cfg.INPUT.CROP
    if not crop.ENABLED:
        return None
    if crop.TYPE != "absolute":
        raise ConfigError(
            "DeepLab needs the size of the training crops in px",
            got=f"INPUT.CROP.TYPE: {crop.TYPE}",
            expected="absolute",
            remedy="set INPUT.CROP.TYPE to absolute, or INPUT.CROP.ENABLED to False",
        )
    return int(crop.SIZE[0]), int(crop.SIZE[1])


def decoder_options(cfg: CfgNode, node: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
    """Return the arguments of a head with a ``Decoder``, from its node of the configuration.

    Raises:
        ConfigError: a feature map does not exist, or the options do not fit.
    """
    name = "INS_EMBED_HEAD" if node.NAME == "PanopticDeepLabInsEmbedHead" else "SEM_SEG_HEAD"
    shapes = shapes_of(input_shape, node.IN_FEATURES, f"MODEL.{name}.IN_FEATURES")
    by_name = sorted(zip(node.IN_FEATURES, shapes, strict=True), key=lambda item: item[1].stride)
    names = [feature for feature, _ in by_name]
    if list(node.PROJECT_FEATURES) != names[:-1]:
        # As in detectron2, the feature maps follow from IN_FEATURES alone.
        warnings.warn(
            f"MODEL.{name}.PROJECT_FEATURES: {list(node.PROJECT_FEATURES)} has no effect; PROJECT_CHANNELS "
            f"belong to {names[:-1]}, the maps of MODEL.{name}.IN_FEATURES but the coarsest",
            stacklevel=2,
        )
    return {
        "input_shape": dict(by_name),
        "project_channels": list(node.PROJECT_CHANNELS),
        "aspp_dilations": list(node.ASPP_DILATIONS),
        "aspp_dropout": node.ASPP_DROPOUT,
        "decoder_channels": [node.CONVS_DIM] * (len(names) - 1) + [node.ASPP_CHANNELS],
        "common_stride": node.COMMON_STRIDE,
        "norm": node.NORM,
        "train_size": crop_size(cfg),
    }


def loss_options(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of a semantic head that concern its loss."""
    node = cfg.MODEL.SEM_SEG_HEAD
    return {
        "num_classes": node.NUM_CLASSES,
        "loss_weight": node.LOSS_WEIGHT,
        "loss_type": check_loss_type(node.LOSS_TYPE),
        "ignore_value": node.IGNORE_VALUE,
        "use_depthwise_separable_conv": node.USE_DEPTHWISE_SEPARABLE_CONV,
    }


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV3PlusHead(SemSegHead):
    """A ``Decoder`` and a predictor of the classes.

    Args:
        input_shape: feature maps by name.
        decoder_channels: channels of each level.
        common_stride: stride of the finest feature map, and of the logits, in px.
        loss_weight: weight of the loss.
        loss_type: ``"cross_entropy"`` or ``"hard_pixel_mining"``: see ``deeplab_loss``.
        ignore_value: label of ignored pixels.
        num_classes: K; None builds only the decoder, for a subclass with other predictors.
        **decoder: see ``Decoder``.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        decoder_channels: Sequence[int],
        common_stride: int,
        loss_weight: float = 1.0,
        loss_type: str = "cross_entropy",
        ignore_value: int = -1,
        num_classes: int | None = None,
        **decoder: Any,
    ) -> None:
        super().__init__(num_classes or 0, common_stride, ignore_value, loss_weight)
        self.loss_type = check_loss_type(loss_type)
        self.decoder = Decoder(input_shape, decoder_channels=decoder_channels, **decoder)
        finest = min(shape.stride for shape in input_shape.values())
        if finest != common_stride:
            raise ConfigError(
                "the common stride is not that of the finest feature map",
                got=f"COMMON_STRIDE: {common_stride}",
                expected=finest,
                remedy="correct COMMON_STRIDE or IN_FEATURES",
            )
        if num_classes is not None:
            self.predictor = predictor(decoder_channels[0], num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        return {**decoder_options(cfg, cfg.MODEL.SEM_SEG_HEAD, input_shape), **loss_options(cfg)}

    def layers(self, features: Dict[str, Tensor]) -> Tensor:
        """Return logits (N, K, H, W) at the common stride, for feature maps by name."""
        return self.predictor(self.decoder(features))

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return two segments: the layers and the upsampling of their logits."""
        return upsampled_segments(self, self.decoder.feature_names)

    @torch.jit.unused
    def pixel_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, K, H, W): see ``deeplab_loss``."""
        return deeplab_loss(logits, target, self.loss_type, self.ignore_value)


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV3Head(SemSegHead):
    """ASPP over one feature map and a predictor of the classes.

    Args:
        input_shape: the feature map by name.
        aspp_channels: channels of ASPP.
        aspp_dilations: dilations of ASPP.
        aspp_dropout: dropout of ASPP in training.
        common_stride: stride of the feature map, and of the logits, in px.
        norm: name of the normalization.
        train_size: see ``aspp_window``.
        num_classes: K.
        loss_weight: weight of the loss.
        loss_type: ``"cross_entropy"`` or ``"hard_pixel_mining"``: see ``deeplab_loss``.
        ignore_value: label of ignored pixels.
        use_depthwise_separable_conv: use depthwise separable convolutions.

    Raises:
        ConfigError: there are several feature maps.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        aspp_channels: int,
        aspp_dilations: Sequence[int],
        aspp_dropout: float,
        common_stride: int,
        norm: Any,
        train_size: tuple[int, int] | None,
        num_classes: int,
        loss_weight: float = 1.0,
        loss_type: str = "cross_entropy",
        ignore_value: int = -1,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        if len(input_shape) != 1:
            raise ConfigError(
                "DeepLabV3Head has one feature map",
                got=f"MODEL.SEM_SEG_HEAD.IN_FEATURES: {list(input_shape)}",
                expected="one name, such as res5",
                remedy="correct MODEL.SEM_SEG_HEAD.IN_FEATURES",
            )
        super().__init__(num_classes, common_stride, ignore_value, loss_weight)
        self.loss_type = check_loss_type(loss_type)
        ((self.in_feature, shape),) = input_shape.items()
        if shape.stride != common_stride:
            raise ConfigError(
                "the common stride is not that of the feature map",
                got=f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE: {common_stride}",
                expected=shape.stride,
                remedy=f"set MODEL.SEM_SEG_HEAD.COMMON_STRIDE: {shape.stride}",
            )
        self.aspp = build_aspp(
            shape,
            aspp_channels,
            dilations=aspp_dilations,
            norm=norm,
            train_size=train_size,
            dropout=aspp_dropout,
            use_depthwise_separable_conv=use_depthwise_separable_conv,
        )
        self.predictor = predictor(aspp_channels, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.SEM_SEG_HEAD
        shapes = shapes_of(input_shape, node.IN_FEATURES, "MODEL.SEM_SEG_HEAD.IN_FEATURES")
        return {
            "input_shape": dict(zip(node.IN_FEATURES, shapes, strict=True)),
            "aspp_channels": node.ASPP_CHANNELS,
            "aspp_dilations": list(node.ASPP_DILATIONS),
            "aspp_dropout": node.ASPP_DROPOUT,
            "common_stride": node.COMMON_STRIDE,
            "norm": node.NORM,
            "train_size": crop_size(cfg),
            **loss_options(cfg),
        }

    def layers(self, features: Dict[str, Tensor]) -> Tensor:
        """Return logits (N, K, H, W) at the common stride, for feature maps by name."""
        return self.predictor(self.aspp(features[self.in_feature]))

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return two segments: the layers and the upsampling of their logits."""
        return upsampled_segments(self, [self.in_feature])

    @torch.jit.unused
    def pixel_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, K, H, W): see ``deeplab_loss``."""
        return deeplab_loss(logits, target, self.loss_type, self.ignore_value)
