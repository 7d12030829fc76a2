"""Validity of COCO segmentations; invalid ones must not reach pycocotools."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detexport.data.segmentation import MAX_COORDINATE, annotation_mask, checked_segmentation
from detexport.errors import DataError

HEIGHT, WIDTH = 12, 16
TRIANGLE = [1, 1, 9, 1, 5, 8.5]


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


@pytest.mark.parametrize("missing", [None, [], ()])
def test_missing_segmentations(missing: Any) -> None:
    assert checked_segmentation(missing, HEIGHT, WIDTH) is None
    assert not annotation_mask(missing, HEIGHT, WIDTH).any()


def test_polygons_without_an_area_are_left_out() -> None:
    assert checked_segmentation([TRIANGLE, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], []], HEIGHT, WIDTH) == [
        TRIANGLE
    ]
    assert checked_segmentation([[1, 2, 3, 4]], HEIGHT, WIDTH) == []
    assert not annotation_mask([[1, 2, 3, 4]], HEIGHT, WIDTH).any()


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths_of_pycocotools_are_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 400, 2))
    mask = rng.random(size) < rng.choice([0.0, 0.001, 0.5, 0.999, 1.0])
    value = rle(mask)
    assert checked_segmentation(value, *size) is value
    np.testing.assert_array_equal(annotation_mask(value, *size), mask)


@pytest.mark.parametrize(
    ("segmentation", "got"),
    [
        ([[1, 2, 3, 4, 5, float("nan")]], "a coordinate that is not within"),
        ([[1, 2, 3, 4, 5, float("inf")]], "a coordinate that is not within"),
        ([[1, 2, 3, 4, 5, 10**400]], "a coordinate that is not within"),
        ([[1, 2, 3, 4, 5, MAX_COORDINATE + 1]], "a coordinate that is not within"),
        ([[MAX_COORDINATE, 0, -MAX_COORDINATE, 0] * 20], "an outline of"),
        ([[1, 2, 3, 4, 5, "6"]], "a polygon with a str"),
        ([[1, 2, 3, 4, 5, True]], "a polygon with a bool"),
        ([[1, 2, 3, 4, 5, None]], "a polygon with a NoneType"),
        ([[[1, 2, 3, 4, 5, 6]]], "a polygon with a list"),
        (TRIANGLE, "a int instead of a polygon"),
        ("1 2 3 4 5 6", "a str"),
        (7, "a int"),
        ([{"size": [HEIGHT, WIDTH], "counts": [192]}], "a dict instead of a polygon"),
        ({}, "run lengths of the size None"),
        ({"size": [WIDTH, HEIGHT], "counts": [192]}, "run lengths of the size"),
        ({"size": [HEIGHT, WIDTH], "counts": [191]}, "run lengths of 191 px for 192 px"),
        ({"size": [HEIGHT, WIDTH], "counts": [193, -1]}, "counts are neither"),
        ({"size": [HEIGHT, WIDTH], "counts": [191.0, 1]}, "counts are neither"),
        ({"size": [HEIGHT, WIDTH], "counts": None}, "counts are neither"),
        ({"size": [HEIGHT, WIDTH]}, "counts are neither"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "no compressed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "0"}, "run lengths of 0 px"),
        ({"size": [HEIGHT, WIDTH], "counts": "o"}, "no compressed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "a b"}, "no compressed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "é"}, "not ASCII"),
        ({"size": [HEIGHT, WIDTH], "counts": "oooooooooo0"}, "more than 32 bits"),
        ({"size": [HEIGHT, WIDTH], "counts": "O0"}, "not from 0"),
    ],
)
def test_invalid_segmentations_do_not_reach_pycocotools(segmentation: Any, got: str) -> None:
    with pytest.raises(ValueError, match=got):
        checked_segmentation(segmentation, HEIGHT, WIDTH)
    with pytest.raises(DataError, match=f"a segmentation is not valid; got: .*{got}"):
        annotation_mask(segmentation, HEIGHT, WIDTH)
