"""Boxes, rotated boxes, masks and keypoints are indexed, moved and iterated in the same way."""

from typing import Any

import pytest
import torch

from detexport.structures import BitMasks, Boxes, Keypoints, ROIMasks, RotatedBoxes

SHAPES: dict[type[Any], tuple[int, ...]] = {
    Boxes: (3, 4),
    RotatedBoxes: (3, 5),
    BitMasks: (3, 6, 7),
    ROIMasks: (3, 28, 28),
    Keypoints: (3, 17, 3),
}


@pytest.mark.parametrize("structure", SHAPES, ids=lambda one: one.__name__)
def test_rows_are_selected_moved_and_iterated(structure: type[Any]) -> None:
    shape = SHAPES[structure]
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape) % 2
    values = structure(tensor if structure is BitMasks else tensor.float())
    assert (len(values), values.device) == (3, torch.device("cpu"))
    for item, rows in ((1, [1]), (slice(1, None), [1, 2]), (torch.tensor([True, False, True]), [0, 2])):
        selected = values[item]
        assert type(selected) is structure
        assert torch.equal(selected.tensor, values.tensor[rows])
    assert type(values.to("cpu")) is structure
    assert torch.equal(torch.stack(list(values)), values.tensor)
