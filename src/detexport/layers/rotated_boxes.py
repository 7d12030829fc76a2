"""Overlap of rotated boxes: exact areas of the intersections, in plain torch.

A rotated box is its centre x and y, width and height in px, and an angle in degrees, counter-clockwise in the
image. The intersection of two boxes is a convex polygon. Its vertices are corners of one box inside the other
and crossings of their edges.

Shapes: P pairs of boxes.
"""

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 16
"""Pairs whose intersections are computed together; each takes 24 candidates for a vertex."""
TOLERANCE = 1e-9
"""Distance outside an edge, relative to its length, at which a point counts as on it."""


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
    x = boxes[..., 2:3] / 2 * boxes.new_tensor([-1.0, 1.0, 1.0, -1.0])
    y = boxes[..., 3:4] / 2 * boxes.new_tensor([-1.0, -1.0, 1.0, 1.0])
    # y points down, so a counter-clockwise rotation has a negative sine here.
    return torch.stack((boxes[..., 0:1] + x * cos + y * sin, boxes[..., 1:2] - x * sin + y * cos), dim=-1)


def _iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    shape = (len(boxes1), len(boxes2), 5)
    first, second = boxes1[:, None].expand(shape).reshape(-1, 5), boxes2[None].expand(shape).reshape(-1, 5)
    areas1, areas2 = first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]
    near = (first[:, :2] - second[:, :2]).norm(dim=1) < (_radius(first) + _radius(second))
    iou = torch.zeros_like(areas1)
    pairs = (near & (areas1 > 0) & (areas2 > 0)).nonzero()[:, 0]
    if len(pairs):
        common = intersection_areas(first[pairs], second[pairs])
        iou[pairs] = common / (areas1[pairs] + areas2[pairs] - common)
    return iou.clamp(max=1).reshape(shape[:2])


def _radius(boxes: Tensor) -> Tensor:
    return boxes[:, 2:4].norm(dim=1) / 2


def intersection_areas(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (P,) areas of the intersections of rotated boxes (P, 5) and (P, 5), float64, in px²."""
    # Relative to one centre: the coordinates then lose no digits far from the origin.
    origin = torch.cat((boxes1[:, :2], torch.zeros_like(boxes1[:, :3])), dim=1)
    corners1, corners2 = corners_of_rotated(boxes1 - origin), corners_of_rotated(boxes2 - origin)
    crossings, crossed = _crossings(corners1, corners2)
    points = torch.cat((corners1, corners2, crossings), dim=1)
    found = torch.cat((_inside(corners1, corners2), _inside(corners2, corners1), crossed), dim=1)
    count = found.sum(dim=1).clamp(min=1)
    centre = (points * found[..., None]).sum(dim=1) / count[:, None]
    around = points - centre[:, None]
    # Around the centre of the polygon; what is no vertex follows and is replaced by the first vertex.
    angle = torch.where(found, torch.atan2(around[..., 1], around[..., 0]), torch.inf)
    order = angle.argsort(dim=1)
    around = around.gather(1, order[..., None].expand(-1, -1, 2))
    around = torch.where(found.gather(1, order)[..., None], around, around[:, :1])
    x, y = around.unbind(dim=2)
    area = (x * y.roll(-1, dims=1) - y * x.roll(-1, dims=1)).sum(dim=1).abs() / 2
    return torch.where(count > 2, area, torch.zeros_like(area))


def _edges(corners: Tensor) -> Tensor:
    return corners.roll(-1, dims=1) - corners


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _inside(points: Tensor, corners: Tensor) -> Tensor:
    """Return (P, 4) bool: whether ``points`` (P, 4, 2) are in the box with ``corners`` (P, 4, 2)."""
    edges = _edges(corners)[:, :2]
    offset = points[:, :, None] - corners[:, None, :2]
    # The first two edges are the axes of the box; along each a point is at a fraction of 0 to 1.
    position = (offset * edges[:, None]).sum(dim=3) / (edges * edges).sum(dim=2)[:, None]
    return ((position >= -TOLERANCE) & (position <= 1 + TOLERANCE)).all(dim=2)


def _crossings(corners1: Tensor, corners2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the crossings (P, 16, 2) of all edges of two boxes, and (P, 16) bool, whether they exist."""
    edges1, edges2 = _edges(corners1)[:, :, None], _edges(corners2)[:, None]
    between = corners2[:, None] - corners1[:, :, None]
    determinant = _cross(edges1, edges2)
    lengths = edges1.norm(dim=3) * edges2.norm(dim=3)
    parallel = determinant.abs() <= TOLERANCE * lengths
    safe = torch.where(parallel, torch.ones_like(determinant), determinant)
    along1, along2 = _cross(between, edges2) / safe, _cross(between, edges1) / safe
    crossed = ~parallel
    for along in (along1, along2):
        crossed &= (along >= -TOLERANCE) & (along <= 1 + TOLERANCE)
    points = corners1[:, :, None] + along1[..., None] * edges1
    return points.flatten(1, 2), crossed.flatten(1)
