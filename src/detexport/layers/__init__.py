"""Layers of detection models, built on the operators of torch and torchvision."""

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.layers.conv import Conv2d, ShapeSpec
from detexport.layers.deform_conv import DeformConv
from detexport.layers.nms import nms_per_class
from detexport.layers.norm import FrozenBatchNorm2d, get_norm

__all__ = ["Conv2d", "DeformConv", "FrozenBatchNorm2d", "ShapeSpec", "get_norm", "nms_per_class"]
