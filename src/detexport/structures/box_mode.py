"""Formats of boxes, and the conversion between them."""

from collections.abc import Sequence
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """Format of a box; annotations name it under ``bbox_mode``.

    Relative formats are listed so that annotations that use them are recognized and refused.
    """

    XYXY_ABS = 0
    """x0, y0, x1, y1 in px."""
    XYWH_ABS = 1
    """x0, y0, width, height in px."""
    XYXY_REL = 2
    """x0, y0, x1, y1 relative to the image size: not supported."""
    XYWH_REL = 3
    """x0, y0, width, height relative to the image size: not supported."""
    XYWHA_ABS = 4
    """Centre, width, height in px and an angle in degrees, counter-clockwise."""

    @staticmethod
    def convert(box: Tensor | np.ndarray | Sequence[float], from_mode: "BoxMode", to_mode: "BoxMode") -> Any:
        """Convert boxes from one mode to another.

        A rotated box becomes the smallest box around it; a box becomes a rotated one of angle 0.

        Args:
            box: (R, 4) or (4,), with 5 values if rotated; a tensor, an array or a plain sequence.
            from_mode: the mode of ``box``.
            to_mode: the mode of the result.

        Returns:
            a copy with the type and the number of dimensions of ``box``.

        Raises:
            NotImplementedError: one of the modes is relative.
            ValueError: ``box`` has another shape.
        """
        for mode in (BoxMode(from_mode), BoxMode(to_mode)):
            if mode in (BoxMode.XYXY_REL, BoxMode.XYWH_REL):
                raise NotImplementedError(
                    f"boxes in the mode BoxMode.{mode.name} are not supported; "
                    "expected BoxMode.XYXY_ABS, BoxMode.XYWH_ABS or BoxMode.XYWHA_ABS"
                )
        if isinstance(box, np.ndarray):
            return BoxMode.convert(torch.tensor(box), from_mode, to_mode).numpy()
        if not isinstance(box, Tensor):
            values = BoxMode.convert(torch.tensor(box, dtype=torch.float64), from_mode, to_mode)
            return type(box)(values.tolist())  # type: ignore[call-arg]
        numbers = 5 if from_mode == BoxMode.XYWHA_ABS else 4
        if box.dim() not in (1, 2) or box.shape[-1] != numbers:
            raise ValueError(f"boxes have the shape (R, {numbers}) or ({numbers},), got {tuple(box.shape)}")
        if from_mode == to_mode:
            return box.clone()
        return _from_corners(_to_corners(box.double(), from_mode), to_mode).to(box.dtype)


def _to_corners(box: Tensor, mode: BoxMode) -> Tensor:
    """Return boxes of any mode as XYXY."""
    if mode == BoxMode.XYWHA_ABS:
        angle = torch.deg2rad(box[..., 4:5])
        cos, sin = angle.cos().abs(), angle.sin().abs()
        w, h = box[..., 2:3], box[..., 3:4]
        reach = torch.cat((cos * w + sin * h, sin * w + cos * h), dim=-1) / 2
        return torch.cat((box[..., :2] - reach, box[..., :2] + reach), dim=-1)
    if mode == BoxMode.XYWH_ABS:
        return torch.cat((box[..., :2], box[..., :2] + box[..., 2:]), dim=-1)
    return box


def _from_corners(box: Tensor, mode: BoxMode) -> Tensor:
    """Return XYXY boxes in another mode."""
    if mode == BoxMode.XYXY_ABS:
        return box
    corner, size = box[..., :2], box[..., 2:] - box[..., :2]
    if mode == BoxMode.XYWH_ABS:
        return torch.cat((corner, size), dim=-1)
    return torch.cat((corner + size / 2, size, torch.zeros_like(size[..., :1])), dim=-1)
