"""Model configurations with detectron2's keys and defaults."""

from detexport.config.cfg import CfgNode, get_cfg, global_cfg, set_global_cfg
from detexport.config.configurable import configurable

__all__ = ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"]
