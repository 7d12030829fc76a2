"""Model configurations: detectron2's keys and defaults (``get_cfg``), and ``LazyConfig``."""

from detexport.config.cfg import CfgNode, get_cfg, global_cfg, set_global_cfg
from detexport.config.configurable import configurable
from detexport.config.lazy import LazyCall, LazyConfig, instantiate

__all__ = [
    "CfgNode",
    "LazyCall",
    "LazyConfig",
    "configurable",
    "get_cfg",
    "global_cfg",
    "instantiate",
    "set_global_cfg",
]
