"""Formats of boxes, and the conversion between them."""

from collections.abc import Sequence
from enum import IntEnum, unique
from typing import Any

import numpy as np
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """Format of a box; annotations name it under ``bbox_mode``.

    Relative and rotated formats are listed so that annotations that use them are recognized and refused.
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
    """Centre, width, height in px and an angle in degrees: not supported."""

    @staticmethod
    def convert(box: Tensor | np.ndarray | Sequence[float], from_mode: "BoxMode", to_mode: "BoxMode") -> Any:
        """Convert boxes from one mode to another.

        Args:
            box: (R, 4) or (4,), a tensor, an array or a plain sequence.
            from_mode: the mode of ``box``.
            to_mode: the mode of the result.

        Returns:
            a copy with the type and shape of ``box``.

        Raises:
            NotImplementedError: one of the modes is relative or rotated.
            ValueError: ``box`` has another shape.
        """
        for mode in (BoxMode(from_mode), BoxMode(to_mode)):
            if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
                raise NotImplementedError(
                    f"boxes in the mode BoxMode.{mode.name} are not supported; "
                    "expected BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"
                )
        if not isinstance(box, Tensor | np.ndarray):
            array = BoxMode.convert(np.asarray(box, dtype=np.float64), from_mode, to_mode)
            return type(box)(array.tolist())  # type: ignore[call-arg]
        if box.shape[-1:] != (4,) or box.ndim > 2:
            raise ValueError(f"boxes have the shape (R, 4) or (4,), got {tuple(box.shape)}")
        converted: Any = box.clone() if isinstance(box, Tensor) else box.copy()
        if from_mode != to_mode:
            sign = 1 if to_mode == BoxMode.XYXY_ABS else -1
            converted[..., 2:] += sign * converted[..., :2]
        return converted
