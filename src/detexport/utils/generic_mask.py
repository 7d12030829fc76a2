"""A mask as a bitmap and as polygons."""

from functools import cached_property
from typing import Any

import numpy as np

from detexport.structures.masks import polygons_to_bitmask


class GenericMask:
    """A mask as a bitmap and as polygons, each computed from the other when it is needed.

    Args:
        mask_or_polygons: a bitmap (H, W), polygons x0, y0, x1, y1, ..., or RLE in COCO's form.
        height: of the image in px.
        width: of the image in px.
    """

    def __init__(self, mask_or_polygons: Any, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._given = mask_or_polygons

    @cached_property
    def mask(self) -> np.ndarray:
        """Bitmap (H, W), uint8."""
        if isinstance(self._given, dict):
            from pycocotools import mask as coco_mask

            counts = self._given["counts"]
            rle = (
                coco_mask.frPyObjects(self._given, self.height, self.width)
                if isinstance(counts, list)
                else self._given
            )
            return np.asarray(coco_mask.decode(rle), np.uint8)
        if isinstance(self._given, list):
            return polygons_to_bitmask(self._given, self.height, self.width).astype(np.uint8)
        return np.asarray(self._given).astype(np.uint8)

    @cached_property
    def polygons(self) -> list[np.ndarray]:
        """Outer outlines x0, y0, x1, y1, ..., along the edges of the pixels unless polygons were given."""
        if isinstance(self._given, list):
            return [np.asarray(polygon, np.float64).reshape(-1) for polygon in self._given]
        return [outline.reshape(-1) for outline in self._outlines if _signed_area(outline) > 0]

    @property
    def has_holes(self) -> bool:
        """Whether the mask encloses pixels that are not in it."""
        return any(_signed_area(outline) < 0 for outline in self._outlines)

    def area(self) -> int:
        """Return the number of pixels."""
        return int(self.mask.sum())

    def bbox(self) -> np.ndarray:
        """Return the smallest box (4,) XYXY around the mask; all 0 if it is empty."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return np.zeros(4)
        return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)

    @cached_property
    def _outlines(self) -> list[np.ndarray]:
        return outlines_of(self.mask.astype(bool))


def outlines_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines (N, 2) of a bitmap (H, W) along pixel edges: outer ones clockwise, holes not."""
    padded = np.pad(mask, 1)
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Each pixel edge between inside and outside, with the inside on its right.
    for (dy, dx), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        outside = ~np.roll(padded, (-dy, -dx), axis=(0, 1))
        for y, x in np.argwhere((padded & outside)[1:-1, 1:-1]).tolist():
            after.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    outlines = []
    while after:
        first = next(iter(after))
        corners: list[tuple[int, int]] = []
        point = first
        while point != first or not corners:
            corners.append(point)
            choices = after[point]
            # Where two pixels touch at a corner, turn towards the pixel that was followed.
            turn = 0 if len(choices) == 1 or len(corners) == 1 else _right_turn(corners[-2], point, choices)
            following = choices.pop(turn)
            if not choices:
                del after[point]
            point = following
        outlines.append(_without_straight(np.array(corners, np.float64)))
    return outlines


def _right_turn(before: tuple[int, int], point: tuple[int, int], choices: list[tuple[int, int]]) -> int:
    dx, dy = point[0] - before[0], point[1] - before[1]
    return max(
        range(len(choices)), key=lambda i: dx * (choices[i][1] - point[1]) - dy * (choices[i][0] - point[0])
    )


def _without_straight(corners: np.ndarray) -> np.ndarray:
    """Remove corners on a straight line between their neighbours."""
    before, after = np.roll(corners, 1, axis=0) - corners, np.roll(corners, -1, axis=0) - corners
    return corners[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _signed_area(corners: np.ndarray) -> float:
    x, y = corners[:, 0], corners[:, 1]
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
