import numpy as np
import pytest
import torch

from detexport.data.panoptic import segments_of_ids


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_category_and_instance_of_an_id(kind: type) -> None:
    ids = kind([[-1, 0, 0], [1002, 1003, 5000], [1002, 1003, 5000]])
    segmentation, segments = segments_of_ids(ids, 1000, thing_classes={1})
    assert segmentation.dtype == np.int32
    assert segments == [
        {"id": 1, "isthing": False, "category_id": 0},
        {"id": 1003, "isthing": True, "category_id": 1},
        {"id": 1004, "isthing": True, "category_id": 1},
        {"id": 5001, "isthing": False, "category_id": 5},
    ]
    assert segmentation.tolist() == [[0, 1, 1], [1003, 1004, 5001], [1003, 1004, 5001]]


def test_a_map_without_segments() -> None:
    segmentation, segments = segments_of_ids(np.full((2, 3), -1), 1000, [])
    assert not segmentation.any()
    assert segments == []


@pytest.mark.parametrize(
    ("ids", "divisor", "message"),
    [
        (np.full((2, 2), -2), 1000, "got -2"),
        (np.zeros((2, 2)), 1000, "integers"),
        (np.zeros(4, int), 1000, "integers"),
        (np.zeros((2, 2), int), 0, "label_divisor must be positive"),
    ],
)
def test_invalid_panoptic_maps(ids: np.ndarray, divisor: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segments_of_ids(ids, divisor, [])
