"""Rotated boxes: centre, size and angle."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detexport.layers.rotated_boxes import pairwise_iou_rotated
from detexport.structures.instance_tensor import InstanceTensor


class RotatedBoxes(InstanceTensor):
    """Rotated boxes of one image.

    Args:
        tensor: (R, 5): x and y of the centre, width and height in px, and the angle in degrees by which the
            box is rotated counter-clockwise in the image. An empty one may have any shape.

    Raises:
        ValueError: the last dimension is not 5.
    """

    def __init__(self, tensor: Tensor | Sequence[Sequence[float]]) -> None:
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32)
        tensor = tensor.to(torch.float32)
        if tensor.dim() != 2 or tensor.shape[-1] != 5:
            if tensor.numel() > 0:
                raise ValueError(f"rotated boxes have the shape (R, 5), got {tuple(tensor.shape)}")
            tensor = tensor.reshape(0, 5)
        super().__init__(tensor)

    def clone(self) -> "RotatedBoxes":
        """Return a copy that shares no storage."""
        return RotatedBoxes(self.tensor.clone())

    def area(self) -> Tensor:
        """Return the (R,) areas in px²."""
        return self.tensor[:, 2] * self.tensor[:, 3]

    def normalize_angles(self) -> None:
        """Bring the angles into [-180, 180), in place."""
        self.tensor = normalize_rotated_boxes(self.tensor)

    def clip(self, box_size: tuple[int, int], clip_angle_threshold: float = 1.0) -> None:
        """Clip boxes that are nearly horizontal to the image, in place, and normalize all angles.

        Other boxes are kept as they are: the rest of one in the image would be no rotated box.

        Args:
            box_size: height and width in px.
            clip_angle_threshold: greatest angle in degrees of a box that is clipped.
        """
        self.tensor = clip_rotated_boxes(self.tensor, box_size, clip_angle_threshold)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return (R,) bool: whether both sides are longer than ``threshold`` px."""
        return nonempty_rotated_boxes(self.tensor, threshold)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Return (R,) bool: whether a box extends at most ``boundary_threshold`` px beyond the image."""
        height, width = box_size
        x, y, w, h, angle = self.tensor.unbind(dim=1)
        cos, sin = torch.deg2rad(angle).cos().abs(), torch.deg2rad(angle).sin().abs()
        reach_x, reach_y = (cos * w + sin * h) / 2, (sin * w + cos * h) / 2
        return (
            (x - reach_x >= -boundary_threshold)
            & (y - reach_y >= -boundary_threshold)
            & (x + reach_x < width + boundary_threshold)
            & (y + reach_y < height + boundary_threshold)
        )

    def get_centers(self) -> Tensor:
        """Return the (R, 2) centres, x and y in px."""
        return self.tensor[:, :2]

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Scale the boxes with their image, in place.

        With different factors the result is no rectangle. Its sides then have the lengths, and the angle is
        that of the scaled vertical side.
        """
        self.tensor = scale_rotated_boxes(self.tensor, self.tensor.new_tensor((scale_x, scale_y)))

    @classmethod
    def cat(cls, boxes_list: Sequence["RotatedBoxes"]) -> "RotatedBoxes":
        """Concatenate several ``RotatedBoxes``."""
        if len(boxes_list) == 0:
            return cls(torch.empty(0, 5))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    def __repr__(self) -> str:
        return f"RotatedBoxes({self.tensor})"


def normalize_rotated_boxes(boxes: Tensor) -> Tensor:
    """Return rotated boxes (R, 5) with their angles in [-180, 180)."""
    angle = boxes[:, 4:]
    # Without a remainder, which exporters translate differently for negative numbers.
    return torch.cat((boxes[:, :4], angle - 360.0 * torch.floor((angle + 180.0) / 360.0)), dim=1)


def clip_rotated_boxes(
    boxes: Tensor, image_size: tuple[int, int], clip_angle_threshold: float = 1.0
) -> Tensor:
    """Clip rotated boxes (R, 5) that are nearly horizontal to an image, and normalize all angles.

    Args:
        boxes: rotated boxes.
        image_size: height and width in px; symbolic during a trace or an export.
        clip_angle_threshold: greatest angle in degrees of a box that is clipped.
    """
    height, width = image_size
    boxes = normalize_rotated_boxes(boxes)
    x, y, w, h, angle = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3], boxes[:, 4]
    x0, x1 = (x - w / 2).clamp(min=0, max=width), (x + w / 2).clamp(min=0, max=width)
    y0, y1 = (y - h / 2).clamp(min=0, max=height), (y + h / 2).clamp(min=0, max=height)
    # By rounding the difference may exceed the old size.
    w, h = torch.minimum(x1 - x0, w), torch.minimum(y1 - y0, h)
    clipped = torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, w, h, angle), dim=1)
    return torch.where((angle.abs() <= clip_angle_threshold)[:, None], clipped, boxes)


def nonempty_rotated_boxes(boxes: Tensor, threshold: float = 0.0) -> Tensor:
    """Return (R,) bool: whether both sides of rotated boxes (R, 5) are longer than ``threshold`` px."""
    return (boxes[:, 2] > threshold) & (boxes[:, 3] > threshold)


def scale_rotated_boxes(boxes: Tensor, scale: Tensor) -> Tensor:
    """Scale rotated boxes (R, 5) with their image by ``scale`` (2,), x and y: see ``RotatedBoxes.scale``."""
    angle = torch.deg2rad(boxes[:, 4])
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y = scale[0], scale[1]
    return torch.stack(
        (
            boxes[:, 0] * x,
            boxes[:, 1] * y,
            boxes[:, 2] * torch.sqrt((x * cos) ** 2 + (y * sin) ** 2),
            boxes[:, 3] * torch.sqrt((x * sin) ** 2 + (y * cos) ** 2),
            torch.rad2deg(torch.atan2(x * sin, y * cos)),
        ),
        dim=1,
    )


def pairwise_iou(boxes1: RotatedBoxes, boxes2: RotatedBoxes) -> Tensor:
    """Return the (N, M) intersection over union of each pair of rotated boxes."""
    return pairwise_iou_rotated(boxes1.tensor, boxes2.tensor)
