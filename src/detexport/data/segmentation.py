"""COCO's segmentations, checked before the native code of pycocotools sees them.

One rule for all readers. A segmentation is one of three things:

- polygons, each x0, y0, x1, y1, ... in px. A polygon of an odd number of coordinates or of fewer than three
  corners has no area: it is left out. Coordinates that are not finite numbers are an error;
- run lengths of the image's size, as numbers or in COCO's compressed text, that add up to its pixels;
- nothing: missing, null or an empty list. The annotation is a box.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from detexport.contract import MAX_SIDE
from detexport.errors import shown

NUMBER = (int, float, np.integer, np.floating)

MIN_NUMBERS = 6
"""Coordinates of a triangle. COCO's tools would take four numbers for a box."""

MAX_COORDINATE = 2 * MAX_SIDE
"""Largest absolute coordinate of a corner, in px."""

MAX_OUTLINE = 1 << 22
"""Longest outline of a polygon in px: pycocotools keeps about 80 bytes of memory for each."""

MOST_DIGITS = 7
"""Digits of 5 bits of a compressed run length; 7 hold more than 32 bits."""


def checked_segmentation(segmentation: Any, height: int, width: int) -> Any:
    """Return the valid parts of a segmentation.

    Args:
        segmentation: as COCO has it, see above.
        height: of the image in px.
        width: of the image in px.

    Returns:
        a list of polygons, which is empty if each was left out; run lengths as they are; None for nothing.

    Raises:
        ValueError: it is something else. The message says what, to follow "segmentation: ".
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
        raise ValueError(f"a {type(polygon).__name__} where a polygon belongs")
    strange = [kind for kind in set(map(type, polygon)) if kind is bool or not issubclass(kind, NUMBER)]
    if strange:
        names = min(kind.__name__ for kind in strange)
        raise ValueError(f"a polygon with a {names} where a number belongs")
    # Compared as they are: a whole number may be too large for a float.
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
        raise ValueError("run lengths whose counts are neither a text nor whole numbers from 0")
    if total != height * width:
        raise ValueError(
            f"run lengths of {total if total < 1 << 62 else 'too many'} px for {height * width} px"
        )


def _sum_of_compressed(counts: str | bytes) -> int:
    """Sum of the run lengths that a compressed text stands for.

    Each character holds 5 bits, least significant first, and a bit that says that more follow; from the
    fourth on a number is the difference to the one two places before (pycocotools, ``maskApi.c``).
    """
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise ValueError("compressed run lengths with letters that are not ASCII") from None
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("a text that is no compressed run lengths")
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
