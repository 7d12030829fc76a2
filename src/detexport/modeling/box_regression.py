"""Box regression: encode boxes as deltas from anchors or proposals (Girshick et al. 2014)."""

import math
from dataclasses import dataclass
from typing import Any, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from detexport.errors import ConfigError

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Upper bound of dw and dh: exp of a larger delta could overflow."""


@dataclass(frozen=True)
class Box2BoxTransform:
    """Encoding of box deltas (dx, dy, dw, dh): shift of the centre over the size, log of the size ratio.

    Args:
        weights: factors of dx, dy, dw and dh.
        scale_clamp: upper bound of dw and dh.
    """

    weights: tuple[float, float, float, float]
    scale_clamp: float = MAX_LOG_SCALE

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the box deltas (R, 4) that transform ``src_boxes`` (R, 4) into ``target_boxes``, XYXY."""
        src_size = src_boxes[:, 2:] - src_boxes[:, :2]
        target_size = target_boxes[:, 2:] - target_boxes[:, :2]
        src_center = src_boxes[:, :2] + 0.5 * src_size
        target_center = target_boxes[:, :2] + 0.5 * target_size
        shift = (target_center - src_center) / src_size
        deltas = torch.cat([shift, torch.log(target_size / src_size)], dim=1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode box deltas, as the function ``apply_deltas`` does with the weights of this encoding."""
        return apply_deltas(deltas, boxes, list(self.weights), self.scale_clamp)


@dataclass(frozen=True)
class Box2BoxTransformRotated:
    """Encoding of deltas between rotated boxes (dx, dy, dw, dh, da), shift and size as of plain boxes.

    The shift is along the axes of the image, over the size of the box. The difference of the angles is in
    radians.

    Args:
        weights: factors of dx, dy, dw, dh and da.
        scale_clamp: upper bound of dw and dh.
    """

    weights: tuple[float, float, float, float, float]
    scale_clamp: float = MAX_LOG_SCALE

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the deltas (R, 5) that transform ``src_boxes`` (R, 5) into ``target_boxes``."""
        shift = (target_boxes[:, :2] - src_boxes[:, :2]) / src_boxes[:, 2:4]
        scale = torch.log(target_boxes[:, 2:4] / src_boxes[:, 2:4])
        turn = torch.deg2rad(wrapped_degrees(target_boxes[:, 4:] - src_boxes[:, 4:]))
        deltas = torch.cat([shift, scale, turn], dim=1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode deltas (R, K * 5) of boxes (R, 5) to rotated boxes (R, K * 5), the angle in [-180, 180)."""
        values = deltas.unflatten(1, (-1, 5)) / deltas.new_tensor(self.weights)
        boxes = boxes.to(deltas.dtype)[:, None]
        centre = values[..., :2] * boxes[..., 2:4] + boxes[..., :2]
        size = values[..., 2:4].clamp(max=self.scale_clamp).exp() * boxes[..., 2:4]
        angle = wrapped_degrees(torch.rad2deg(values[..., 4:]) + boxes[..., 4:])
        return torch.cat([centre, size, angle], dim=2).flatten(1)


def wrapped_degrees(angle: Tensor) -> Tensor:
    """Return angles in degrees in [-180, 180)."""
    return (angle + 180.0) % 360.0 - 180.0


@dataclass(frozen=True)
class Box2BoxTransformLinear:
    """Encoding of a box by the distances of its edges from the centre of another (Tian et al. 2019, FCOS).

    Args:
        normalize_by_size: measure the distances in sizes of the other box.
    """

    normalize_by_size: bool = True

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return (R, 4) distances left, up, right and down from the centres of ``src_boxes`` (R, 4) XYXY."""
        centre = (src_boxes[:, :2] + src_boxes[:, 2:]) / 2
        deltas = torch.cat([centre - target_boxes[:, :2], target_boxes[:, 2:] - centre], dim=1)
        return deltas / self._unit(src_boxes)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode distances (R, K * 4) from the centres of boxes (R, 4) to boxes (R, K * 4), XYXY in px.

        Negative distances count as 0.
        """
        boxes = boxes.to(deltas.dtype)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        distances = F.relu(deltas).unflatten(1, (-1, 4)) * self._unit(boxes)[:, None]
        corners = (centre[:, None] - distances[..., :2], centre[:, None] + distances[..., 2:])
        return torch.cat(corners, dim=2).flatten(1)

    def _unit(self, boxes: Tensor) -> Tensor:
        size = boxes[:, 2:] - boxes[:, :2]
        return torch.cat([size, size], dim=1) if self.normalize_by_size else torch.ones_like(boxes)


def decoding_weights(transform: Any) -> List[float]:
    """Return the weights with which ``apply_deltas`` decodes as a transform does; none if it does not.

    Without weights a module calls the ``apply_deltas`` of its transform, in eager mode and in a trace.
    """
    plain = type(transform) is Box2BoxTransform and transform.scale_clamp == MAX_LOG_SCALE
    return list(transform.weights) if plain else []


def require_scriptable_transforms(model: nn.Module) -> None:
    """Check that a script of a model decodes boxes as its transforms do.

    Raises:
        ConfigError: a module has an encoding of box deltas other than the default.
    """
    for module in model.modules():
        transform = getattr(module, "box2box_transform", None)
        if transform is not None and not decoding_weights(transform):
            raise ConfigError(
                f"a script does not call the apply_deltas of {type(transform).__name__}",
                got=f"{type(module).__name__}.box2box_transform={transform}",
                expected="a Box2BoxTransform with the default scale_clamp",
                remedy="export by tracing or torch.export, which record its apply_deltas",
            )


def apply_deltas(
    deltas: Tensor, boxes: Tensor, weights: List[float], max_log_scale: float = MAX_LOG_SCALE
) -> Tensor:
    """Decode box deltas to boxes.

    Args:
        deltas: (R, K * 4) box deltas, K per box.
        boxes: (R, 4) XYXY in px.
        weights: factors of dx, dy, dw and dh in ``deltas``.
        max_log_scale: upper bound of dw and dh.

    Returns:
        (R, K * 4) XYXY in px.
    """
    deltas = deltas.float()
    boxes = boxes.to(deltas.dtype)
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    centers_x = boxes[:, 0] + 0.5 * widths
    centers_y = boxes[:, 1] + 0.5 * heights
    # Strided slices instead of a reshape: with no box, ONNX of a trace cannot infer the new shape.
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
    """Return the sum of the smooth L1 losses; ``beta`` 0 is the L1 loss."""
    if beta < 1e-5:
        return (prediction - target).abs().sum()
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="sum")


IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}
"""Losses of box overlap: Rezatofighi et al. 2019 (giou), Zheng et al. 2020 (diou and ciou)."""


def box_loss_sum(
    deltas: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    transform: Box2BoxTransform,
    *,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Return the sum of the box regression losses.

    Args:
        deltas: (R, 4) predicted box deltas.
        boxes: (R, 4) anchors or proposals, XYXY in px.
        gt_boxes: (R, 4) ground truth boxes, XYXY in px.
        transform: encoding of the box deltas.
        loss_type: ``smooth_l1`` of the box deltas; ``giou``, ``diou`` or ``ciou`` of the boxes.
        smooth_l1_beta: where the smooth L1 loss becomes linear.
    """
    if loss_type == "smooth_l1":
        return smooth_l1_sum(deltas, transform.get_deltas(boxes, gt_boxes), smooth_l1_beta)
    return IOU_LOSSES[loss_type](transform.apply_deltas(deltas, boxes), gt_boxes, reduction="sum")


def box_loss_type(value: str, key: str) -> str:
    """Return the ``loss_type`` of ``box_loss_sum`` for the ``value`` of a configuration's ``key``.

    Raises:
        ConfigError: there is no such loss.
    """
    known = ["smooth_l1", *IOU_LOSSES]
    if value not in known:
        raise ConfigError(
            "unknown box loss",
            got=f"{key}: {value}",
            expected=f"one of {', '.join(known)}",
            remedy=f"correct {key}",
        )
    return value


def loss_weights_of(loss_weight: float | dict[str, float], names: tuple[str, str]) -> tuple[float, float]:
    """Return the factors of the losses ``names``: one for both, or each by its name (1 if it is absent).

    Raises:
        ConfigError: a factor is given for a loss that does not exist.
    """
    if not isinstance(loss_weight, dict):
        return loss_weight, loss_weight
    unknown = sorted(set(loss_weight) - set(names))
    if unknown:
        raise ConfigError(
            "unknown losses",
            got=f"loss_weight of {unknown}",
            expected=" and ".join(names),
            remedy="correct loss_weight",
        )
    return loss_weight.get(names[0], 1.0), loss_weight.get(names[1], 1.0)


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
    """Return the sum of the box regression losses over the foreground anchors.

    Args:
        anchors: (HWA, 4) per level, XYXY in px.
        deltas: (N, HWA, 4) per level, predicted box deltas.
        gt_boxes: one (R, 4) per image, the matched ground truth box of each anchor of all levels.
        foreground: (N, R) bool.
        transform: encoding of the box deltas.
        loss_type: see ``box_loss_sum``.
        smooth_l1_beta: where the smooth L1 loss becomes linear.
    """
    return box_loss_sum(
        torch.cat(deltas, dim=1)[foreground],
        torch.cat(anchors).expand(len(foreground), -1, -1)[foreground],
        torch.stack(gt_boxes)[foreground],
        transform,
        loss_type=loss_type,
        smooth_l1_beta=smooth_l1_beta,
    )
