"""ROI heads under detectron2's path."""

from detexport.modeling.registries import ROI_HEADS_REGISTRY
from detexport.modeling.roi_heads.base import ROIHeads, select_foreground_proposals
from detexport.modeling.roi_heads.build import build_roi_heads
from detexport.modeling.roi_heads.res5 import Res5ROIHeads
from detexport.modeling.roi_heads.standard import StandardROIHeads

__all__ = [
    "ROI_HEADS_REGISTRY",
    "ROIHeads",
    "Res5ROIHeads",
    "StandardROIHeads",
    "build_roi_heads",
    "select_foreground_proposals",
]
