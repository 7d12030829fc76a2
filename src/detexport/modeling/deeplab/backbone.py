"""ResNet of DeepLab: a stem of three convolutions, and dilated last stages."""

import torch.nn.functional as F
from torch import Tensor

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import CNNBlockBase, ShapeSpec
from detexport.layers.conv import Conv2d, init_conv_msra
from detexport.modeling.backbone.resnet import (
    BasicStem,
    Norm,
    ResNet,
    configured_stages,
    last_output,
    normalized_conv,
)
from detexport.modeling.registries import BACKBONE_REGISTRY


class DeepLabStem(CNNBlockBase):
    """Three 3x3 convolutions, the first of stride 2, then 3x3 max pooling of stride 2.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output; the first two convolutions have half as many.
        norm: name of the normalization.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 128, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        half = out_channels // 2

        def conv(channels: int, width: int, stride: int) -> Conv2d:
            layer = normalized_conv(channels, width, 3, norm, stride=stride, padding=1, relu=True)
            init_conv_msra(layer)
            return layer

        self.conv1 = conv(in_channels, half, 2)
        self.conv2 = conv(half, half, 1)
        self.conv3 = conv(half, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/4, W/4)."""
        x = self.conv3(self.conv2(self.conv1(x)))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


STEMS = {"basic": BasicStem, "deeplab": DeepLabStem}
"""Stems by ``MODEL.RESNETS.STEM_TYPE``."""


@BACKBONE_REGISTRY.register()
def build_resnet_deeplab_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet with DeepLab's stem and dilations, frozen up to ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ConfigError: an option is not supported.
    """
    resnets = cfg.MODEL.RESNETS
    if resnets.STEM_TYPE not in STEMS:
        raise ConfigError(
            "unknown stem",
            got=f"MODEL.RESNETS.STEM_TYPE: {resnets.STEM_TYPE!r}",
            expected=f"one of {', '.join(STEMS)}",
            remedy="correct MODEL.RESNETS.STEM_TYPE",
        )
    stages = configured_stages(
        cfg,
        last_output(cfg),
        resnets.DEPTH,
        res4_dilation=resnets.RES4_DILATION,
        res5_multi_grid=tuple(resnets.RES5_MULTI_GRID),
    )
    return ResNet(
        STEMS[resnets.STEM_TYPE](input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM),
        list(stages.values()),
        out_features=tuple(resnets.OUT_FEATURES),
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
