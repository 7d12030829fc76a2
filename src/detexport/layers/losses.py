"""Losses of the overlap of boxes (Zheng et al. 2020, arXiv:1911.08287) under detectron2's names."""

from torchvision.ops import complete_box_iou_loss as ciou_loss
from torchvision.ops import distance_box_iou_loss as diou_loss

__all__ = ["ciou_loss", "diou_loss"]
