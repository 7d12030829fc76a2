"""Panoptic maps that name a pixel's category and instance in one number."""

from collections.abc import Collection
from typing import Any

import numpy as np

VOID = -1
"""The number of the pixels of no segment."""


def segments_of_ids(
    panoptic_ids: Any, label_divisor: int, thing_classes: Collection[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Segments of a map that came without ``segments_info``.

    Args:
        panoptic_ids: (H, W) whole numbers: category * ``label_divisor`` + instance, or -1 for no segment.
        label_divisor: as the data set's metadata has it.
        thing_classes: the categories that are things.

    Returns:
        (H, W) int32 id of each pixel's segment, 0 for none; a dict a segment: ``id``, ``isthing``,
        ``category_id``, by ascending id.

    Raises:
        ValueError: a number below -1, numbers that are not whole, or a divisor that is not positive.
    """
    ids = np.asarray(panoptic_ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"panoptic ids are whole numbers (H, W), got {ids.dtype} {ids.shape}")
    if label_divisor <= 0:
        raise ValueError(f"label_divisor is positive, got {label_divisor}")
    if ids.size and ids.min() < VOID:
        raise ValueError(f"panoptic ids are -1 or more, got {ids.min()}")
    segments = [
        {
            "id": int(number) + 1,
            "isthing": int(number) // label_divisor in thing_classes,
            "category_id": int(number) // label_divisor,
        }
        for number in np.unique(ids)
        if number != VOID
    ]
    return (ids.astype(np.int64) + 1).astype(np.int32), segments
