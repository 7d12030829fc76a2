"""``ShapeSpec`` under detectron2's path."""

from detexport.layers.conv import ShapeSpec

__all__ = ["ShapeSpec"]
