"""Backbones: image -> feature maps by name."""

from detexport.modeling.backbone.backbone import Backbone
from detexport.modeling.backbone.build import build_backbone
from detexport.modeling.backbone.fpn import FPN
from detexport.modeling.backbone.resnet import ResNet

__all__ = ["FPN", "Backbone", "ResNet", "build_backbone"]
