"""A project for detectron2: a backbone of its own, with a feature pyramid."""

from .config import add_light_config
from .net import LightNet, build_light_fpn_backbone

__all__ = ["LightNet", "add_light_config", "build_light_fpn_backbone"]
