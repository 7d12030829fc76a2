"""Meta architectures: whole models."""

from detexport.modeling.meta_arch.build import build_model
from detexport.modeling.meta_arch.rcnn import GeneralizedRCNN

__all__ = ["GeneralizedRCNN", "build_model"]
