"""Boxes as differences from other boxes (Girshick et al. 2014)."""

import math
from dataclasses import dataclass
from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from detexport.errors import ConfigError

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""A box grows at most by this factor: exp of a wild delta would overflow."""


@dataclass(frozen=True)
class Box2BoxTransform:
    """(dx, dy, dw, dh) between boxes: shift of the centre in sizes, log of the ratio of sizes.

    Args:
        weights: the four differences are multiplied by these.
    """

    weights: tuple[float, float, float, float]

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """(R, 4) differences that turn (R, 4) ``src_boxes`` into ``target_boxes``, XYXY."""
        src_size = src_boxes[:, 2:] - src_boxes[:, :2]
        target_size = target_boxes[:, 2:] - target_boxes[:, :2]
        src_center = src_boxes[:, :2] + 0.5 * src_size
        target_center = target_boxes[:, :2] + 0.5 * target_size
        shift = (target_center - src_center) / src_size
        deltas = torch.cat([shift, torch.log(target_size / src_size)], dim=1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """See ``apply_deltas``."""
        return apply_deltas(deltas, boxes, list(self.weights))


def apply_deltas(
    deltas: Tensor, boxes: Tensor, weights: List[float], max_log_scale: float = MAX_LOG_SCALE
) -> Tensor:
    """Move and stretch boxes.

    Args:
        deltas: (R, K * 4), K differences a box.
        boxes: (R, 4) XYXY in px.
        weights: what the four differences were multiplied by.
        max_log_scale: upper bound of the logarithm of a size's growth.

    Returns:
        (R, K * 4) XYXY in px.
    """
    deltas = deltas.float()
    boxes = boxes.to(deltas.dtype)
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    centers_x = boxes[:, 0] + 0.5 * widths
    centers_y = boxes[:, 1] + 0.5 * heights
    # By steps, not by a change of shape: of no box at all, ONNX of a trace could not work one out.
    dx = deltas[:, 0::4] / weights[0]
    dy = deltas[:, 1::4] / weights[1]
    dw = (deltas[:, 2::4] / weights[2]).clamp(max=max_log_scale)
    dh = (deltas[:, 3::4] / weights[3]).clamp(max=max_log_scale)
    x = dx * widths[:, None] + centers_x[:, None]
    y = dy * heights[:, None] + centers_y[:, None]
    w = torch.exp(dw) * widths[:, None]
    h = torch.exp(dh) * heights[:, None]
    return torch.stack((x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h), dim=2).flatten(1)


def smooth_l1_sum(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Sum of Huber losses; ``beta`` 0 is the absolute difference."""
    if beta < 1e-5:
        return (prediction - target).abs().sum()
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="sum")


IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}
"""Losses of overlapping boxes: Rezatofighi et al. 2019 (giou), Zheng et al. 2020 (diou and ciou)."""


def box_loss_sum(
    deltas: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    transform: Box2BoxTransform,
    *,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Sum of the losses of predicted boxes.

    Args:
        deltas: (R, 4) predicted differences.
        boxes: (R, 4) XYXY in px, from which the differences are.
        gt_boxes: (R, 4) XYXY in px, where they should lead.
        transform: meaning of the differences.
        loss_type: ``smooth_l1`` of the differences; ``giou``, ``diou`` or ``ciou`` of the boxes.
        smooth_l1_beta: where ``smooth_l1`` turns linear.
    """
    if loss_type == "smooth_l1":
        return smooth_l1_sum(deltas, transform.get_deltas(boxes, gt_boxes), smooth_l1_beta)
    return IOU_LOSSES[loss_type](transform.apply_deltas(deltas, boxes), gt_boxes, reduction="sum")


def box_loss_type(value: str, key: str) -> str:
    """The ``value`` of the configuration's ``key``, as ``box_loss_sum`` takes it.

    Raises:
        ConfigError: there is no such loss.
    """
    known = ["smooth_l1", *IOU_LOSSES]
    if value not in known:
        raise ConfigError("unknown box loss", got=f"{key}: {value}", expected=f"one of {', '.join(known)}")
    return value


def anchor_loss_sum(
    anchors: list[Tensor],
    deltas: list[Tensor],
    gt_boxes: list[Tensor],
    foreground: Tensor,
    transform: Box2BoxTransform,
    *,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Return the box loss, summed over the anchors of the foreground.

    Args:
        anchors: (HWA, 4) a level, XYXY in px.
        deltas: (N, HWA, 4) a level, differences that were predicted.
        gt_boxes: one (R, 4) an image, the box that each anchor of all levels answers for.
        foreground: (N, R) bool.
        transform: meaning of the differences.
        loss_type: see ``box_loss_sum``.
        smooth_l1_beta: where a smooth L1 loss turns linear.
    """
    return box_loss_sum(
        torch.cat(deltas, dim=1)[foreground],
        torch.cat(anchors).expand(len(foreground), -1, -1)[foreground],
        torch.stack(gt_boxes)[foreground],
        transform,
        loss_type=loss_type,
        smooth_l1_beta=smooth_l1_beta,
    )
