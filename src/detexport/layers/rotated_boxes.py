"""Overlap of rotated boxes: exact areas of the intersections, in plain torch.

A rotated box is its centre x and y, width and height in px, and an angle in degrees, counter-clockwise in the
image. The border of an intersection consists of the segments of each box's edges inside the other box.

Shapes: P pairs of boxes.
"""

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 16
"""Number of pairs whose intersections are computed together."""
TOLERANCE = 1e-12
"""Distance between edges, relative to their length, at which they coincide."""
PARALLEL = 1e-13
"""Sine of the angle between parallel edges."""


def pairwise_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (N, M) intersection over union of each pair of rotated boxes; 0 for empty boxes.

    Args:
        boxes1: (N, 5) centre x, centre y, width, height, angle.
        boxes2: (M, 5).
    """
    first, second = boxes1.double(), boxes2.double()
    rows = max(1, PAIRS_AT_ONCE // max(1, len(second)))
    parts = [_iou(part, second) for part in first.split(rows)]
    return (torch.cat(parts) if parts else first.new_zeros(0, len(second))).to(boxes1.dtype)


def corners_of_rotated(boxes: Tensor) -> Tensor:
    """Return the corners (..., 4, 2), x and y in px, of rotated boxes (..., 5), in order around each box."""
    angle = torch.deg2rad(boxes[..., 4:5])
    cos, sin = torch.cos(angle), torch.sin(angle)
    right, down = boxes[..., 2:3] / 2, boxes[..., 3:4] / 2
    x = torch.cat((-right, right, right, -right), dim=-1)
    y = torch.cat((-down, -down, down, down), dim=-1)
    # y points down, so a counter-clockwise rotation has a negative sine here.
    return torch.stack((boxes[..., 0:1] + x * cos + y * sin, boxes[..., 1:2] - x * sin + y * cos), dim=-1)


def _iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    shape = (len(boxes1), len(boxes2), 5)
    first, second = boxes1[:, None].expand(shape).reshape(-1, 5), boxes2[None].expand(shape).reshape(-1, 5)
    iou = torch.zeros_like(first[:, 0])
    near = (first[:, :2] - second[:, :2]).norm(dim=1) < (_radius(first) + _radius(second))
    pairs = near.nonzero()[:, 0]
    iou[pairs] = matched_iou_rotated(first[pairs], second[pairs])
    return iou.reshape(shape[:2])


def _radius(boxes: Tensor) -> Tensor:
    return boxes[:, 2:4].norm(dim=1) / 2


def matched_iou_rotated(boxes1: Tensor, boxes2: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return the (P,) intersection over union of rotated boxes (P, 5) and (P, 5); 0 for empty boxes."""
    areas1, areas2 = boxes1[:, 2] * boxes1[:, 3], boxes2[:, 2] * boxes2[:, 3]
    common = intersection_areas(boxes1, boxes2, tolerance)
    iou = (common / (areas1 + areas2 - common)).clamp(max=1)
    return torch.where((areas1 > 0) & (areas2 > 0), iou, torch.zeros_like(iou))


def intersection_areas(boxes1: Tensor, boxes2: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return the (P,) areas of the intersections of rotated boxes (P, 5) and (P, 5), in px²."""
    # Relative to one centre: the coordinates then lose no digits far from the origin.
    origin = torch.cat((boxes1[:, :2], torch.zeros_like(boxes1[:, 2:])), dim=1)
    corners1, corners2 = corners_of_rotated(boxes1 - origin), corners_of_rotated(boxes2 - origin)
    # Where edges coincide, those of the first box are part of the border.
    border = _border(corners1, corners2, tolerance) + _border(corners2, corners1, -tolerance)
    return border.clamp(min=0) / 2


def _edges(corners: Tensor) -> Tensor:
    return torch.cat((corners[:, 1:], corners[:, :1]), dim=1) - corners


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _border(corners: Tensor, others: Tensor, tolerance: float, parallel_sine: float = PARALLEL) -> Tensor:
    """Return twice the area (P,) that the edges of boxes inside other boxes contribute to the intersection.

    That is the sum of the cross products of the ends of each edge, clipped at the sides of the other box
    (Green's theorem; Cyrus and Beck 1978).

    Args:
        corners: (P, 4, 2) of the boxes.
        others: (P, 4, 2) of the other boxes.
        tolerance: distance outside a side, relative to its length, at which an edge along it is inside.
        parallel_sine: sine of the angle between parallel edges.
    """
    edges, sides = _edges(corners), _edges(others)
    lengths = torch.sqrt((sides * sides).sum(dim=2)).clamp(min=1e-30)[:, None]
    # Distance of an edge from the sides of the other box, positive inside, and its change along the edge.
    sides = sides[:, None]
    distance = _cross(sides, corners[:, :, None] - others[:, None]) / lengths
    change = _cross(sides, edges[:, :, None]) / lengths
    along = (sides * edges[:, :, None]).sum(dim=3) > 0
    distance = distance + torch.where(along, tolerance, -abs(tolerance)) * lengths
    parallel = change.abs() <= parallel_sine * torch.sqrt((edges * edges).sum(dim=2))[:, :, None]
    crossing = -distance / torch.where(parallel, torch.ones_like(change), change)
    outside = torch.where(distance >= 0, torch.zeros_like(crossing), torch.full_like(crossing, 2.0))
    start = torch.where(parallel, outside, torch.where(change > 0, crossing, torch.zeros_like(crossing)))
    end = torch.where(parallel | (change > 0), torch.ones_like(crossing), crossing)
    inside = (end.amin(dim=2).clamp(max=1) - start.amax(dim=2).clamp(min=0)).clamp(min=0)
    return (_cross(corners, edges) * inside).sum(dim=1)
