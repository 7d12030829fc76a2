"""What detection models take and give: boxes, masks, keypoints, instances, batches of images."""

from detexport.structures.boxes import Boxes, pairwise_iou
from detexport.structures.image_list import ImageList
from detexport.structures.instances import Instances
from detexport.structures.keypoints import Keypoints
from detexport.structures.masks import BitMasks

__all__ = ["BitMasks", "Boxes", "ImageList", "Instances", "Keypoints", "pairwise_iou"]
