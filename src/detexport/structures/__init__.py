"""What detection models take and give: boxes, masks, instances, batches of images."""

from detexport.structures.boxes import Boxes, pairwise_iou
from detexport.structures.image_list import ImageList
from detexport.structures.instances import Instances
from detexport.structures.masks import BitMasks

__all__ = ["BitMasks", "Boxes", "ImageList", "Instances", "pairwise_iou"]
