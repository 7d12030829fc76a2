"""Panoptic maps with one id per pixel for its category and instance."""

from collections.abc import Collection
from typing import Any

import numpy as np

VOID = -1
"""Id of pixels without a segment."""


def segments_of_ids(
    panoptic_ids: Any, label_divisor: int, thing_classes: Collection[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the segments of a panoptic map without ``segments_info``.

    Args:
        panoptic_ids: (H, W) integers: category * ``label_divisor`` + instance, or -1 for no segment.
        label_divisor: of the data set's metadata.
        thing_classes: the thing categories.

    Returns:
        (H, W) int32 id of each pixel's segment, 0 for none; one dict per segment: ``id``, ``isthing``,
        ``category_id``, by ascending id.

    Raises:
        ValueError: an id is below -1 or no integer, or the divisor is not positive.
    """
    ids = np.asarray(panoptic_ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"panoptic ids are integers (H, W), got {ids.dtype} {ids.shape}")
    if label_divisor <= 0:
        raise ValueError(f"label_divisor must be positive, got {label_divisor}")
    if ids.size and ids.min() < VOID:
        raise ValueError(f"panoptic ids must be at least -1, got {ids.min()}")
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
