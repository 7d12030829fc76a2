"""Inputs and outputs of detection models: boxes, masks, keypoints, instances, batches of images."""

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.structures.box_mode import BoxMode
from detexport.structures.boxes import (
    Boxes,
    pairwise_intersection,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detexport.structures.image_list import ImageList
from detexport.structures.instances import Instances
from detexport.structures.keypoints import Keypoints, heatmaps_to_keypoints
from detexport.structures.masks import (
    BitMasks,
    PolygonMasks,
    ROIMasks,
    polygons_to_bitmask,
    rasterize_polygons_within_box,
)
from detexport.structures.rotated_boxes import RotatedBoxes
from detexport.structures.rotated_boxes import pairwise_iou as pairwise_iou_rotated

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "Keypoints",
    "PolygonMasks",
    "ROIMasks",
    "RotatedBoxes",
    "heatmaps_to_keypoints",
    "pairwise_intersection",
    "pairwise_ioa",
    "pairwise_iou",
    "pairwise_iou_rotated",
    "pairwise_point_box_distance",
    "polygons_to_bitmask",
    "rasterize_polygons_within_box",
]
