"""PointRend under detectron2's path; its keys are part of the default configuration."""

from detexport.config import CfgNode
from detexport.modeling.point_rend import (
    ImplicitPointHead,
    ImplicitPointRendMaskHead,
    PointRendMaskHead,
    PointRendSemSegHead,
    StandardPointHead,
    build_point_head,
)

__all__ = [
    "ImplicitPointHead",
    "ImplicitPointRendMaskHead",
    "PointRendMaskHead",
    "PointRendSemSegHead",
    "StandardPointHead",
    "add_pointrend_config",
    "build_point_head",
]


def add_pointrend_config(cfg: CfgNode) -> None:
    """Do nothing: the keys are there already."""
