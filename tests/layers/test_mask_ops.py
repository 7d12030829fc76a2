import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detexport.layers.mask_ops import paste_masks, paste_masks_at_once, paste_masks_in_image
from detexport.structures import Boxes

BOXES = torch.tensor(
    [
        [3.2, 4.1, 17.9, 21.5],
        [-6.0, -4.5, 11.0, 9.0],  # extends beyond the image
        [20.0, 20.0, 60.0, 70.0],
        [0.0, 0.0, 40.0, 30.0],
        [7.3, 7.4, 7.9, 7.8],  # within one pixel
        [-20.0, 5.0, -3.0, 9.0],  # outside
    ]
)


def by_grid_sample(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Sample each pixel centre bilinearly in the frame of the box, with zeros outside."""
    x0, y0, x1, y1 = boxes.double()[:, :, None].unbind(1)
    x = (torch.arange(width).double()[None] + 0.5 - x0) / (x1 - x0) * 2 - 1
    y = (torch.arange(height).double()[None] + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    return F.grid_sample(masks.double()[:, None], grid, align_corners=False)[:, 0]


@pytest.mark.parametrize("copies", [1, 7])
def test_paste_against_grid_sample(copies: int) -> None:
    boxes = BOXES.repeat(copies, 1)
    masks = torch.rand(len(boxes), 28, 28, generator=torch.Generator().manual_seed(0))
    expected = by_grid_sample(masks, boxes, 30, 40)
    pasted = paste_masks(masks, boxes, 30, 40, 0.5)
    assert pasted.dtype == torch.bool
    sure = (expected - 0.5).abs() > 1e-5
    assert sure.double().mean() > 0.99
    assert torch.equal(pasted[sure], (expected >= 0.5)[sure])
    assert pasted[0].any()
    assert not pasted[5].any()


def test_a_full_mask_fills_its_box_and_the_threshold_counts() -> None:
    masks = torch.stack([torch.ones(4, 4), torch.full((4, 4), 0.5)])
    boxes = torch.tensor([[2.0, 3, 10, 7], [0, 0, 20, 20]])
    pasted = paste_masks(masks, boxes, 12, 16, 0.5)
    expected = torch.zeros(12, 16, dtype=torch.bool)
    expected[3:7, 2:10] = True
    assert torch.equal(pasted[0], expected)
    assert pasted[1, 5, 5]
    assert paste_masks(torch.zeros(0, 4, 4), torch.zeros(0, 4), 12, 16, 0.5).shape == (0, 12, 16)


def centres(side: int) -> Tensor:
    return torch.arange(side) + 0.5


@pytest.mark.parametrize("count", [0, 1, 5])
def test_pasting_at_once_equals_pasting_one_by_one(count: int) -> None:
    boxes = BOXES[:count]
    masks = torch.rand(count, 28, 28, generator=torch.Generator().manual_seed(1))
    at_once = paste_masks_at_once(masks, boxes, centres(30), centres(40), 0.5)
    assert at_once.shape == (count, 30, 40)
    assert torch.equal(at_once, paste_masks(masks, boxes, 30, 40, 0.5))


def test_a_scripted_function_pastes_the_same() -> None:
    masks = torch.rand(6, 28, 28, generator=torch.Generator().manual_seed(2))
    scripted = torch.jit.script(paste_masks)
    assert torch.equal(scripted(masks, BOXES, 30, 40, 0.5), paste_masks(masks, BOXES, 30, 40, 0.5))


def test_paste_masks_in_image_takes_boxes_and_can_return_probabilities() -> None:
    masks = torch.rand(len(BOXES), 7, 7, generator=torch.Generator().manual_seed(0))
    pasted = paste_masks_in_image(masks, Boxes(BOXES), (30, 40), threshold=0.4)
    assert torch.equal(pasted, paste_masks(masks, BOXES, 30, 40, 0.4))
    soft = paste_masks_in_image(masks, BOXES, (30, 40), threshold=-1)
    assert soft.dtype == torch.uint8
    assert (soft.double() - by_grid_sample(masks, BOXES, 30, 40) * 255).abs().max() < 1.001
