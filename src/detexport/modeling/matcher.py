"""Matching of anchors and proposals to ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detexport.layers import pairwise_iou_rotated
from detexport.structures import Boxes, RotatedBoxes, pairwise_iou


@dataclass(frozen=True)
class Matcher:
    """Match boxes to ground truth by IoU.

    Args:
        thresholds: ascending IoUs, the bounds between the labels.
        labels: one more than ``thresholds``: 1 foreground, 0 background, -1 ignored.
        allow_low_quality_matches: label the best boxes of each ground truth foreground, whatever their IoU.
    """

    thresholds: Sequence[float]
    labels: Sequence[int]
    allow_low_quality_matches: bool = False

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Match R boxes to G ground truth boxes by their IoU (G, R).

        Returns:
            (R,) int64 index of the best ground truth box, (R,) int8 label.
        """
        if iou.shape[0] == 0:
            matches = iou.new_zeros(iou.shape[1], dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        best, matches = iou.max(dim=0)
        bounds = [-torch.inf, *self.thresholds, torch.inf]
        labels = torch.ones_like(matches, dtype=torch.int8)
        for label, low, high in zip(self.labels, bounds, bounds[1:], strict=False):
            labels[(best >= low) & (best < high)] = label
        if self.allow_low_quality_matches:
            best_of_truth = iou.max(dim=1, keepdim=True).values
            labels[(iou == best_of_truth).any(dim=0)] = 1
        return matches, labels


AnyBoxes = Boxes | RotatedBoxes


def overlaps(boxes1: Any, boxes2: Any) -> Tensor:
    """Return the (N, M) intersection over union of boxes, both plain or both rotated."""
    if isinstance(boxes1, RotatedBoxes):
        return pairwise_iou_rotated(boxes1.tensor, boxes2.tensor)
    return pairwise_iou(boxes1, boxes2)


def match_anchors(anchors: AnyBoxes, gt_boxes: AnyBoxes, matcher: Matcher) -> tuple[Tensor, Tensor, Tensor]:
    """Match anchors to the ground truth boxes of an image.

    Args:
        anchors: the anchors of all levels.
        gt_boxes: ground truth of the image; may be empty.
        matcher: assigns the labels.

    Returns:
        (R,) int64 index of the best ground truth box, (R,) int8 label, (R, 4 or 5) that box; zeros if the
        image has no ground truth.
    """
    matches, labels = matcher(overlaps(gt_boxes, anchors))
    boxes = gt_boxes.tensor[matches] if len(gt_boxes) else torch.zeros_like(anchors.tensor)
    return matches, labels, boxes


def matched_classes(gt_classes: Tensor, matches: Tensor, labels: Tensor, background: int) -> Tensor:
    """Return the class (R,) of each box: that of its ground truth, the background, or -1 (ignored).

    Args:
        gt_classes: (G,) int64; may be empty.
        matches: (R,) index of the ground truth box of each box.
        labels: (R,) 1 foreground, 0 background, -1 ignored.
        background: label of the background.
    """
    if not len(gt_classes):
        return torch.full_like(matches, background)
    classes = gt_classes[matches]
    classes[labels == 0] = background
    classes[labels == -1] = -1
    return classes
