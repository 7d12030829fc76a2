"""Checks of COCO segmentations, before they reach the native code of pycocotools, and conversion to bitmaps.

All readers apply the same rule. A segmentation is one of these:

- polygons, each x0, y0, x1, y1, ... in px. A polygon with an odd number of coordinates or fewer than three
  vertices has no area and is left out. Coordinates that are not finite numbers are an error;
- RLE of the image's size, as numbers or as COCO's compressed string, that adds up to its pixels;
- none: missing, null or an empty list. The annotation is a box.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detexport.contract import MAX_SIDE
from detexport.errors import DataError, shown

NUMBER = (int, float, np.integer, np.floating)

MIN_NUMBERS = 6
"""Coordinates of a triangle. pycocotools would take four numbers for a box."""

MAX_COORDINATE = 2 * MAX_SIDE
"""Largest absolute coordinate of a vertex, in px."""

MAX_OUTLINE = 1 << 22
"""Longest outline of a polygon in px: pycocotools allocates about 80 bytes per px."""

MOST_DIGITS = 7
"""Maximum number of 5-bit digits of a compressed run length: 7 hold 32 bits."""


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Convert a COCO segmentation (polygons, compressed or plain RLE) to a bitmap.

    Returns:
        (height, width) bool; empty without a segmentation, or if all its polygons are invalid.

    Raises:
        DataError: the segmentation is invalid, see ``checked_segmentation``.
    """
    try:
        segmentation = checked_segmentation(segmentation, height, width)
    except ValueError as error:
        raise DataError(
            "a segmentation is not valid",
            got=error,
            expected="polygons, or run lengths of the image's size",
            remedy="correct the annotations",
        ) from error
    if not segmentation:
        return np.zeros((height, width), bool)
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)


def checked_segmentation(segmentation: Any, height: int, width: int) -> Any:
    """Check a segmentation and remove its invalid polygons.

    Args:
        segmentation: in COCO's form, see above.
        height: of the image in px.
        width: of the image in px.

    Returns:
        a list of the valid polygons, which may be empty; RLE unchanged; None for no segmentation.

    Raises:
        ValueError: the segmentation is invalid; the message describes it.
    """
    if segmentation is None or (isinstance(segmentation, list | tuple) and len(segmentation) == 0):
        return None
    if isinstance(segmentation, list | tuple):
        polygons = [_numbers(polygon) for polygon in segmentation]
        kept = [polygon for polygon in polygons if len(polygon) >= MIN_NUMBERS and len(polygon) % 2 == 0]
        for polygon in kept:
            _check_outline(polygon)
        return kept
    if isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width)
        return segmentation
    raise ValueError(f"a {type(segmentation).__name__}")


def _numbers(polygon: Any) -> list[float]:
    if isinstance(polygon, np.ndarray):
        polygon = polygon.tolist()
    if not isinstance(polygon, list | tuple):
        raise ValueError(f"a {type(polygon).__name__} instead of a polygon")
    strange = [kind for kind in set(map(type, polygon)) if kind is bool or not issubclass(kind, NUMBER)]
    if strange:
        names = min(kind.__name__ for kind in strange)
        raise ValueError(f"a polygon with a {names} instead of a number")
    # Compared without conversion, since an integer may be too large for a float.
    if not all(-MAX_COORDINATE <= number <= MAX_COORDINATE for number in polygon):
        raise ValueError(f"a polygon with a coordinate that is not within ±{MAX_COORDINATE} px")
    return list(polygon)


def _check_outline(polygon: Sequence[float]) -> None:
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    length = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum()
    if length > MAX_OUTLINE:
        raise ValueError(f"a polygon with an outline of {length:.0f} px, more than {MAX_OUTLINE}")


def _check_run_lengths(rle: dict[str, Any], height: int, width: int) -> None:
    size = rle.get("size")
    if not isinstance(size, list | tuple | np.ndarray) or [*size] != [height, width]:
        raise ValueError(f"run lengths of the size {shown(size)} for an image of {[height, width]}")
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        total = _sum_of_compressed(counts)
    elif isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts):
        total = sum(counts)
    else:
        raise ValueError("run lengths whose counts are neither a string nor non-negative integers")
    if total != height * width:
        raise ValueError(
            f"run lengths of {total if total < 1 << 62 else 'too many'} px for {height * width} px"
        )


def _sum_of_compressed(counts: str | bytes) -> int:
    """Return the sum of the run lengths in a compressed string.

    Each character holds 5 bits, least significant first, and a continuation bit; from the fourth on a number
    is the difference to the one two positions before (pycocotools, ``maskApi.c``).
    """
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise ValueError("compressed run lengths with characters that are not ASCII") from None
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("a string that is no compressed run lengths")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    digits = ends - starts + 1
    if digits.max() > MOST_DIGITS:
        raise ValueError("compressed run lengths with a number of more than 32 bits")
    place = np.arange(codes.size) - np.repeat(starts, digits)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    numbers -= np.where(codes[ends] & 16, 1 << (5 * digits), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    if numbers.min() < 0 or numbers.max() >= 1 << 32:
        raise ValueError("compressed run lengths with a number that is not from 0 to 2^32 - 1")
    return int(numbers.sum())
