"""Backbones: image -> feature maps by name."""

from detexport.layers import CNNBlockBase as ResNetBlockBase
from detexport.modeling.backbone.backbone import Backbone, backbone_segments, padding_of
from detexport.modeling.backbone.build import build_backbone
from detexport.modeling.backbone.fpn import FPN
from detexport.modeling.backbone.mvit import MViT
from detexport.modeling.backbone.regnet import RegNet
from detexport.modeling.backbone.resnet import (
    BasicStem,
    BottleneckBlock,
    DeformBottleneckBlock,
    ResNet,
    build_resnet_backbone,
    make_stage,
)
from detexport.modeling.backbone.swin import SwinTransformer
from detexport.modeling.backbone.vit import SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate
from detexport.modeling.registries import BACKBONE_REGISTRY

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "Backbone",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "MViT",
    "RegNet",
    "ResNet",
    "ResNetBlockBase",
    "SimpleFeaturePyramid",
    "SwinTransformer",
    "ViT",
    "backbone_segments",
    "build_backbone",
    "build_resnet_backbone",
    "get_vit_lr_decay_rate",
    "make_stage",
    "padding_of",
]
