"""ROI heads: proposals -> detections, and what is computed for each detection."""

from detexport.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detexport.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detexport.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detexport.modeling.roi_heads.standard import StandardROIHeads, build_roi_heads

__all__ = [
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "MaskRCNNConvUpsampleHead",
    "StandardROIHeads",
    "build_roi_heads",
]
