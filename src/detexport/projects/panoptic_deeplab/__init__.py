"""Panoptic-DeepLab under detectron2's path."""

from detexport.config import CfgNode
from detexport.config.cfg import add_project_keys
from detexport.modeling.panoptic_deeplab import (
    INS_EMBED_BRANCHES_REGISTRY,
    PanopticDeepLab,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
    build_ins_embed_branch,
)

__all__ = [
    "INS_EMBED_BRANCHES_REGISTRY",
    "PanopticDeepLab",
    "PanopticDeepLabInsEmbedHead",
    "PanopticDeepLabSemSegHead",
    "add_panoptic_deeplab_config",
    "build_ins_embed_branch",
]


def add_panoptic_deeplab_config(cfg: CfgNode) -> None:
    """Add the keys of Panoptic-DeepLab, and those of DeepLab, with their defaults."""
    add_project_keys(cfg, "panoptic_deeplab")
