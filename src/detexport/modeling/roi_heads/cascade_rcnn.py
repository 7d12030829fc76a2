"""Cascade R-CNN's ROI heads under detectron2's path."""

from detexport.modeling.roi_heads.cascade import CascadeROIHeads

__all__ = ["CascadeROIHeads"]
