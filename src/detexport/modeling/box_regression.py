"""Box regression: encode boxes as deltas from anchors or proposals (Girshick et al. 2014)."""

import math
from collections.abc import Sequence
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
        return apply_rotated_deltas(deltas, boxes, list(self.weights), self.scale_clamp)


def weights_of(weights: Sequence[float], key: str, box_dim: int = 4) -> tuple[Any, ...]:
    """Return the weights of the configuration's ``key``, one for each of the ``box_dim`` values of a box.

    Raises:
        ConfigError: there are not as many.
    """
    if len(weights) != box_dim:
        raise ConfigError(
            f"the deltas of {'rotated ' if box_dim == 5 else ''}boxes have {box_dim} weights",
            got=f"{key}: {list(weights)}",
            expected=f"{box_dim} numbers",
            remedy=f"correct {key}",
        )
    return tuple(weights)


def wrapped_degrees(angle: Tensor) -> Tensor:
    """Return angles in degrees in [-180, 180)."""
    # Without a remainder, which exporters translate differently for negative numbers.
    return angle - 360.0 * torch.floor((angle + 180.0) / 360.0)


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
        return apply_linear_deltas(deltas, boxes, self.normalize_by_size)

    def _unit(self, boxes: Tensor) -> Tensor:
        size = boxes[:, 2:] - boxes[:, :2]
        return torch.cat([size, size], dim=1) if self.normalize_by_size else torch.ones_like(boxes)


def is_recorded(transform: Any, kind: type) -> bool:
    """Return whether graphs can decode for a transform: it is a ``kind`` with the default ``scale_clamp``."""
    return type(transform) is kind and getattr(transform, "scale_clamp", MAX_LOG_SCALE) == MAX_LOG_SCALE


def decoding_weights(transform: Any, kind: type = Box2BoxTransform) -> List[float]:
    """Return the weights of a transform that graphs can decode for; an empty list for any other.

    Without weights a module calls the ``apply_deltas`` of its transform, in eager mode and in a trace.

    Args:
        transform: encoding of box deltas.
        kind: ``Box2BoxTransform``, which ``apply_deltas`` decodes, or ``Box2BoxTransformRotated``, which
            ``apply_rotated_deltas`` does.
    """
    return list(transform.weights) if is_recorded(transform, kind) else []


def require_scriptable_transforms(model: nn.Module) -> None:
    """Check that a scripted model decodes boxes as its transforms do.

    Raises:
        ConfigError: a module has an encoding of box deltas other than the default.
    """
    for module in model.modules():
        transform = getattr(module, "box2box_transform", None)
        kind = getattr(module, "transform_type", Box2BoxTransform)
        if transform is not None and not is_recorded(transform, kind):
            raise ConfigError(
                f"a scripted model does not call the apply_deltas of {type(transform).__name__}",
                got=f"{type(module).__name__}.box2box_transform={transform}",
                expected=f"a {kind.__name__} with the default scale_clamp",
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


def apply_rotated_deltas(
    deltas: Tensor, boxes: Tensor, weights: List[float], max_log_scale: float = MAX_LOG_SCALE
) -> Tensor:
    """Decode deltas of rotated boxes, as ``Box2BoxTransformRotated`` encodes them.

    Args:
        deltas: (R, K * 5) deltas, K per box.
        boxes: (R, 5) centre x and y, width, height, angle in degrees.
        weights: factors of dx, dy, dw, dh and da in ``deltas``.
        max_log_scale: upper bound of dw and dh.

    Returns:
        (R, K * 5) rotated boxes, the angle in [-180, 180).
    """
    deltas = deltas.float()
    boxes = boxes.to(deltas.dtype)
    width, height = boxes[:, 2:3], boxes[:, 3:4]
    x = deltas[:, 0::5] / weights[0] * width + boxes[:, 0:1]
    y = deltas[:, 1::5] / weights[1] * height + boxes[:, 1:2]
    w = torch.exp((deltas[:, 2::5] / weights[2]).clamp(max=max_log_scale)) * width
    h = torch.exp((deltas[:, 3::5] / weights[3]).clamp(max=max_log_scale)) * height
    angle = wrapped_degrees(torch.rad2deg(deltas[:, 4::5] / weights[4]) + boxes[:, 4:5])
    return torch.stack((x, y, w, h, angle), dim=2).flatten(1)


def apply_linear_deltas(deltas: Tensor, boxes: Tensor, normalize_by_size: bool) -> Tensor:
    """Decode the distances of ``Box2BoxTransformLinear`` to boxes; negative ones count as 0.

    Args:
        deltas: (R, K * 4) distances left, up, right and down, K per box.
        boxes: (R, 4) XYXY in px.
        normalize_by_size: the unit of the distances is the size of the box instead of 1 px.

    Returns:
        (R, K * 4) XYXY in px.
    """
    boxes = boxes.to(deltas.dtype)
    x = (boxes[:, 0:1] + boxes[:, 2:3]) / 2
    y = (boxes[:, 1:2] + boxes[:, 3:4]) / 2
    # Strided slices instead of a reshape: see ``apply_deltas``.
    left, up = F.relu(deltas[:, 0::4]), F.relu(deltas[:, 1::4])
    right, down = F.relu(deltas[:, 2::4]), F.relu(deltas[:, 3::4])
    if normalize_by_size:
        width, height = boxes[:, 2:3] - boxes[:, 0:1], boxes[:, 3:4] - boxes[:, 1:2]
        left, right, up, down = left * width, right * width, up * height, down * height
    return torch.stack((x - left, y - up, x + right, y + down), dim=2).flatten(1)


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
    transform: Any,
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
    transform: Any,
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
