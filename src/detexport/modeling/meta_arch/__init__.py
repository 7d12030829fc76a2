"""Meta architectures: whole models."""

from detexport.modeling.meta_arch.build import build_model
from detexport.modeling.meta_arch.rcnn import GeneralizedRCNN
from detexport.modeling.meta_arch.retinanet import RetinaNet

__all__ = ["GeneralizedRCNN", "RetinaNet", "build_model"]
