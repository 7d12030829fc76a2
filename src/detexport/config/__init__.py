"""Model configurations with detectron2's keys and defaults."""

from detexport.config.cfg import CfgNode, get_cfg

__all__ = ["CfgNode", "get_cfg"]
