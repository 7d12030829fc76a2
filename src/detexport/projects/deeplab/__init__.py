"""DeepLab under detectron2's path."""

from detexport.config import CfgNode
from detexport.config.cfg import add_project_keys
from detexport.modeling.deeplab import DeepLabV3Head, DeepLabV3PlusHead, build_resnet_deeplab_backbone

__all__ = ["DeepLabV3Head", "DeepLabV3PlusHead", "add_deeplab_config", "build_resnet_deeplab_backbone"]


def add_deeplab_config(cfg: CfgNode) -> None:
    """Add the keys of DeepLab with their defaults."""
    add_project_keys(cfg, "deeplab")
