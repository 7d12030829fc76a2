"""Non-maximum suppression, per class by meaning in every path: eager, trace, script and export."""

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor


def nms_per_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes that overlap a better one of their own class.

    Each class is moved to a place of its own, ``max - min + 1`` apart, so that one call serves all classes;
    shifting by ``max + 1`` alone would let boxes with negative coordinates meet across classes.

    Args:
        boxes: (R, 4) XYXY in px, R may be 0.
        scores: (R,).
        classes: (R,) int64; boxes of different classes never suppress each other.
        iou_threshold: a box is dropped where its IoU with a better one is greater.

    Returns:
        (K,) indices of the boxes that are kept, by descending score.
    """
    # The added zero gives the maximum of no box at all a value, without a branch.
    extent = F.pad(boxes.flatten(), [0, 1])
    shift = classes.to(boxes.dtype) * (extent.max() - extent.min() + 1)
    return torch.ops.torchvision.nms(boxes + shift[:, None], scores, iou_threshold)
