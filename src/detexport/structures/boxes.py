"""Axis-aligned boxes, XYXY in absolute pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detexport.structures.instance_tensor import InstanceTensor


class Boxes(InstanceTensor):
    """Axis-aligned boxes of one image.

    Args:
        tensor: (R, 4), x0, y0, x1, y1 in px; a tensor or nested sequences. An empty one may have any shape.

    Raises:
        ValueError: the last dimension is not 4.
    """

    def __init__(self, tensor: Tensor | Sequence[Sequence[float]]) -> None:
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32)
        tensor = tensor.to(torch.float32)
        if tensor.dim() != 2 or tensor.shape[-1] != 4:
            if tensor.numel() > 0:
                raise ValueError(f"boxes have the shape (R, 4), got {tuple(tensor.shape)}")
            tensor = tensor.reshape(0, 4)
        super().__init__(tensor)

    def clone(self) -> "Boxes":
        """Return a copy that shares no storage."""
        return Boxes(self.tensor.clone())

    def area(self) -> Tensor:
        """Return the (R,) areas in px²."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip coordinates to ``[0, width]`` and ``[0, height]``, in place.

        Args:
            box_size: height and width in px.
        """
        self.tensor = clip_boxes(self.tensor, box_size)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return (R,) bool: whether both sides are longer than ``threshold`` px."""
        return nonempty_boxes(self.tensor, threshold)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Return (R,) bool: whether a box extends at most ``boundary_threshold`` px beyond the image."""
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        return (
            (x0 >= -boundary_threshold)
            & (y0 >= -boundary_threshold)
            & (x1 < width + boundary_threshold)
            & (y1 < height + boundary_threshold)
        )

    def get_centers(self) -> Tensor:
        """Return the (R, 2) centres, x and y in px."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x by ``scale_x`` and y by ``scale_y``, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: Sequence["Boxes"]) -> "Boxes":
        """Concatenate several ``Boxes``."""
        if len(boxes_list) == 0:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip coordinates to the image.

    Args:
        boxes: (R, 4) XYXY in px.
        image_size: height and width in px; symbolic during a trace or an export.
    """
    height, width = image_size
    x0 = boxes[:, 0].clamp(min=0, max=width)
    y0 = boxes[:, 1].clamp(min=0, max=height)
    x1 = boxes[:, 2].clamp(min=0, max=width)
    y1 = boxes[:, 3].clamp(min=0, max=height)
    return torch.stack((x0, y0, x1, y1), dim=1)


def nonempty_boxes(boxes: Tensor, threshold: float = 0.0) -> Tensor:
    """Return (R,) bool: whether both sides of (R, 4) ``boxes`` are longer than ``threshold`` px."""
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    return (widths > threshold) & (heights > threshold)


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the (N, M) intersection of each pair in px²."""
    a, b = boxes1.tensor, boxes2.tensor
    lower = torch.max(a[:, None, :2], b[None, :, :2])
    upper = torch.min(a[:, None, 2:], b[None, :, 2:])
    return (upper - lower).clamp(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the (N, M) intersection over union of each pair; 0 where the intersection is empty."""
    intersection = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area()[None, :] - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(intersection))


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the (N, M) intersection of each pair over the area of the second box; 0 where that is empty."""
    intersection = pairwise_intersection(boxes1, boxes2)
    return torch.where(
        intersection > 0, intersection / boxes2.area()[None, :], torch.zeros_like(intersection)
    )


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the (N,) intersection over union of each box with the one at its position in ``boxes2``.

    Raises:
        ValueError: the numbers of boxes differ.
    """
    if len(boxes1) != len(boxes2):
        raise ValueError(f"matched boxes come in pairs, got {len(boxes1)} and {len(boxes2)}")
    a, b = boxes1.tensor, boxes2.tensor
    sides = torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])
    intersection = sides.clamp(min=0).prod(dim=1)
    union = boxes1.area() + boxes2.area() - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(intersection))


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """Return the (N, M, 4) distances of each point to the left, upper, right and lower edge of each box.

    A distance is negative where the point is outside that edge.

    Args:
        points: (N, 2) x and y in px.
        boxes: M boxes.
    """
    edges = boxes.tensor[None]
    return torch.cat((points[:, None] - edges[..., :2], edges[..., 2:] - points[:, None]), dim=2)
