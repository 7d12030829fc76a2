"""Backbones: image -> feature maps by name."""

from detexport.modeling.backbone.backbone import Backbone, backbone_segments
from detexport.modeling.backbone.build import build_backbone
from detexport.modeling.backbone.fpn import FPN
from detexport.modeling.backbone.resnet import ResNet
from detexport.modeling.registries import BACKBONE_REGISTRY

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "Backbone",
    "ResNet",
    "backbone_segments",
    "build_backbone",
]
