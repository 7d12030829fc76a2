"""Masks as bitmaps and as polygons."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detexport.utils.generic_mask import GenericMask, outlines_of


def square_with_a_hole() -> np.ndarray:
    mask = np.zeros((12, 15), bool)
    mask[2:9, 3:12] = True
    mask[4:6, 5:8] = False
    return mask


def test_outlines_follow_the_edges_of_the_pixels() -> None:
    outer, hole = sorted(outlines_of(square_with_a_hole()), key=len, reverse=True)[:2]
    assert len(outer) == len(hole) == 4
    sets = [{tuple(corner) for corner in outline} for outline in (outer, hole)]
    assert {(3, 2), (12, 2), (12, 9), (3, 9)} in sets
    assert {(5, 4), (8, 4), (8, 6), (5, 6)} in sets


@pytest.mark.parametrize("seed", range(5))
def test_the_outlines_enclose_exactly_the_pixels(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) < 0.5
    area = 0.0
    for outline in outlines_of(mask):
        x, y = outline[:, 0], outline[:, 1]
        area += 0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1))
    assert area == mask.sum()


def test_a_mask_of_each_kind() -> None:
    bitmap = square_with_a_hole()
    mask = GenericMask(bitmap, 12, 15)
    assert mask.has_holes
    assert mask.area() == 63 - 6
    assert mask.bbox().tolist() == [3, 2, 12, 9]
    assert len(mask.polygons) == 1
    rle = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    assert np.array_equal(GenericMask(rle, 12, 15).mask, bitmap)
    polygon = GenericMask([[3, 2, 12, 2, 12, 9, 3, 9]], 12, 15)
    assert polygon.area() == 63
    assert not polygon.has_holes
    assert polygon.polygons[0].tolist() == [3, 2, 12, 2, 12, 9, 3, 9]
    assert GenericMask(np.zeros((4, 4)), 4, 4).bbox().tolist() == [0, 0, 0, 0]
