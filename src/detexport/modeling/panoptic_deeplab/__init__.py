"""Panoptic-DeepLab (Cheng et al. 2020, arXiv:1911.10194)."""

from detexport.modeling.panoptic_deeplab.grouping import CenterGrouping
from detexport.modeling.panoptic_deeplab.heads import (
    INS_EMBED_BRANCHES_REGISTRY,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
    build_ins_embed_branch,
)
from detexport.modeling.panoptic_deeplab.model import PanopticDeepLab

__all__ = [
    "INS_EMBED_BRANCHES_REGISTRY",
    "CenterGrouping",
    "PanopticDeepLab",
    "PanopticDeepLabInsEmbedHead",
    "PanopticDeepLabSemSegHead",
    "build_ins_embed_branch",
]
