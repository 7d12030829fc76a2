"""PointRend (Kirillov et al. 2020, arXiv:1912.08193): masks and semantic logits refined at points."""

from detexport.modeling.point_rend.mask_head import ImplicitPointRendMaskHead, PointRendMaskHead
from detexport.modeling.point_rend.point_head import ImplicitPointHead, StandardPointHead, build_point_head
from detexport.modeling.point_rend.sem_seg_head import PointRendSemSegHead

__all__ = [
    "ImplicitPointHead",
    "ImplicitPointRendMaskHead",
    "PointRendMaskHead",
    "PointRendSemSegHead",
    "StandardPointHead",
    "build_point_head",
]
