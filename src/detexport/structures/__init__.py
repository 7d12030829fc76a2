"""Inputs and outputs of detection models: boxes, masks, keypoints, instances, batches of images."""

from typing import Any

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.structures.box_mode import BoxMode
from detexport.structures.boxes import Boxes, pairwise_intersection, pairwise_ioa, pairwise_iou
from detexport.structures.image_list import ImageList
from detexport.structures.instances import Instances
from detexport.structures.keypoints import Keypoints
from detexport.structures.masks import BitMasks, PolygonMasks, polygons_to_bitmask

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "Keypoints",
    "PolygonMasks",
    "pairwise_intersection",
    "pairwise_ioa",
    "pairwise_iou",
    "polygons_to_bitmask",
]


def __getattr__(name: str) -> Any:
    if name in ("RotatedBoxes", "pairwise_iou_rotated"):
        raise ImportError(f"rotated boxes are not supported: there is no {__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
