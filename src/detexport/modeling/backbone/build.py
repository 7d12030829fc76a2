"""Builders of the backbones that a configuration names."""

from typing import Any

from torch import nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.conv import shapes_of
from detexport.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from detexport.modeling.backbone.resnet import ResNet, resnet_stages
from detexport.modeling.registries import BACKBONE_REGISTRY


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Any:
    """Build ``cfg.MODEL.BACKBONE.NAME``.

    Args:
        cfg: a configuration.
        input_shape: channels of the image; by default those of ``PIXEL_MEAN``.

    Raises:
        ConfigError: there is no such backbone, or it does not report the shapes of its feature maps.
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.build(cfg, input_shape)
    if not callable(getattr(backbone, "output_shape", None)):
        raise ConfigError(
            "the backbone does not report the shapes of its feature maps",
            got=f"MODEL.BACKBONE.NAME: {cfg.MODEL.BACKBONE.NAME!r} gives a {type(backbone).__name__}",
            expected="a module with output_shape(), the ShapeSpec of each feature map by name",
            remedy="derive it from detexport.modeling.Backbone",
        )
    return backbone


def configured_stages(
    cfg: CfgNode, last_stage: str, depth: int
) -> dict[str, tuple[nn.Sequential, ShapeSpec]]:
    """Build the stages ``res2`` .. ``last_stage`` of a ResNet as ``MODEL.RESNETS`` configures it."""
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
    )


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet or ResNeXt, frozen up to ``MODEL.BACKBONE.FREEZE_AT``."""
    resnets = cfg.MODEL.RESNETS
    if not resnets.OUT_FEATURES:
        raise ConfigError(
            "MODEL.RESNETS.OUT_FEATURES names no stage", expected="some of stem, res2, ..., res5"
        )
    return ResNet(
        stages=configured_stages(
            cfg,
            last_stage=max(resnets.OUT_FEATURES, key=lambda name: (name != "stem", name)),
            depth=resnets.DEPTH,
        ),
        in_channels=input_shape.channels,
        stem_channels=resnets.STEM_OUT_CHANNELS,
        norm=resnets.NORM,
        out_features=tuple(resnets.OUT_FEATURES),
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet with a feature pyramid whose p6 is a max pooling of p5."""
    return _pyramid(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet with a feature pyramid whose p6 and p7 are convolutions over res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    (res5,) = shapes_of(bottom_up.output_shape(), ["res5"], "LastLevelP6P7")
    return _pyramid(cfg, bottom_up, LastLevelP6P7(res5.channels, cfg.MODEL.FPN.OUT_CHANNELS))


def _pyramid(cfg: CfgNode, bottom_up: ResNet, top_block: Any) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=tuple(cfg.MODEL.FPN.IN_FEATURES),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        top_block=top_block,
    )
