"""Builder of the ROI heads that a configuration names."""

from typing import Any

from detexport.config import CfgNode
from detexport.layers import ShapeSpec
from detexport.modeling.registries import ROI_HEADS_REGISTRY


def build_roi_heads(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.ROI_HEADS.NAME`` for feature maps of these shapes."""
    return ROI_HEADS_REGISTRY.build(cfg, input_shape)
