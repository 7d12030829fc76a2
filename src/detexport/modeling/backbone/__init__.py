"""Backbones: image -> feature maps by name."""

from detexport.layers import CNNBlockBase as ResNetBlockBase
from detexport.modeling.backbone.backbone import Backbone, backbone_segments, size_divisibility_of
from detexport.modeling.backbone.build import build_backbone
from detexport.modeling.backbone.fpn import FPN
from detexport.modeling.backbone.resnet import (
    BasicStem,
    BottleneckBlock,
    DeformBottleneckBlock,
    ResNet,
    build_resnet_backbone,
    make_stage,
)
from detexport.modeling.registries import BACKBONE_REGISTRY

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "Backbone",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "ResNet",
    "ResNetBlockBase",
    "backbone_segments",
    "build_backbone",
    "build_resnet_backbone",
    "make_stage",
    "size_divisibility_of",
]
