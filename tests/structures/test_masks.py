import numpy as np
import pytest
import torch

from detexport.structures import BitMasks


def test_shape_and_dtype() -> None:
    masks = BitMasks(torch.tensor([[[0, 2], [0, 0]], [[0, 0], [0, 0]]]))
    assert masks.tensor.dtype == torch.bool
    assert masks.image_size == (2, 2)
    assert masks.nonempty().tolist() == [True, False]
    assert masks[0].tensor.shape == (1, 2, 2)
    assert len(masks[torch.tensor([True, True])]) == 2
    assert len(BitMasks.cat([masks, masks])) == 4
    assert len(list(masks)) == 2
    assert len(BitMasks(np.zeros((0, 4, 5)))) == 0
    with pytest.raises(ValueError, match=r"\(R, H, W\)"):
        BitMasks(torch.zeros(2, 2))


def test_crop_and_resize_of_a_rectangle() -> None:
    """A mask that fills the left half of its box fills the left half of the grid."""
    mask = torch.zeros(2, 20, 30)
    mask[0, 2:18, 4:12] = 1
    mask[1, :, :] = 1
    boxes = torch.tensor([[4.0, 2.0, 20.0, 18.0], [3.5, 2.5, 9.5, 8.5]])
    grid = BitMasks(mask).crop_and_resize(boxes, 8)
    assert grid.dtype == torch.bool
    assert grid[0].tolist() == [[True] * 4 + [False] * 4] * 8
    assert grid[1].all()


def test_crop_and_resize_needs_a_box_a_mask() -> None:
    masks = BitMasks(torch.ones(2, 5, 5))
    with pytest.raises(ValueError, match="2 masks"):
        masks.crop_and_resize(torch.zeros(1, 4), 7)
    assert BitMasks(torch.zeros(0, 5, 5)).crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)
