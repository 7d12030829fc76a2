import pytest
import torch
import torch.nn.functional as F

from detexport.modeling.postprocessing import detector_postprocess, paste_masks
from detexport.structures import Boxes, Instances

BOXES = torch.tensor(
    [
        [3.2, 4.1, 17.9, 21.5],
        [-6.0, -4.5, 11.0, 9.0],  # reaches beyond the image
        [20.0, 20.0, 60.0, 70.0],
        [0.0, 0.0, 40.0, 30.0],
        [7.3, 7.4, 7.9, 7.8],  # within one pixel
        [-20.0, 5.0, -3.0, 9.0],  # outside
    ]
)


def by_grid_sample(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Each pixel's centre in the frame of the box, sampled bilinearly with zeros outside."""
    x0, y0, x1, y1 = boxes.double()[:, :, None].unbind(1)
    x = (torch.arange(width).double()[None] + 0.5 - x0) / (x1 - x0) * 2 - 1
    y = (torch.arange(height).double()[None] + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    return F.grid_sample(masks.double()[:, None], grid, align_corners=False)[:, 0]


@pytest.mark.parametrize("copies", [1, 7])
def test_paste_against_grid_sample(copies: int) -> None:
    boxes = BOXES.repeat(copies, 1)  # 42 masks are more than are pasted at once
    masks = torch.rand(len(boxes), 28, 28, generator=torch.Generator().manual_seed(0))
    expected = by_grid_sample(masks, boxes, 30, 40)
    pasted = paste_masks(masks, Boxes(boxes), (30, 40), 0.5)
    assert pasted.dtype == torch.bool
    sure = (expected - 0.5).abs() > 1e-5
    assert sure.double().mean() > 0.99
    assert torch.equal(pasted[sure], (expected >= 0.5)[sure])
    assert pasted[0].any()
    assert not pasted[5].any()


def test_a_full_mask_fills_its_box_and_the_threshold_counts() -> None:
    masks = torch.stack([torch.ones(4, 4), torch.full((4, 4), 0.5)])
    boxes = Boxes([[2, 3, 10, 7], [0, 0, 20, 20]])
    pasted = paste_masks(masks, boxes, (12, 16), 0.5)
    expected = torch.zeros(12, 16, dtype=torch.bool)
    expected[3:7, 2:10] = True
    assert torch.equal(pasted[0], expected)
    assert pasted[1, 5, 5]
    assert paste_masks(torch.zeros(0, 4, 4), Boxes([]), (12, 16), 0.5).shape == (0, 12, 16)


def results() -> Instances:
    return Instances(
        (30, 40),
        pred_boxes=Boxes(BOXES),
        scores=torch.linspace(0.9, 0.4, 6),
        pred_classes=torch.arange(6),
        pred_masks=torch.ones(6, 1, 28, 28),
    )


def test_boxes_are_scaled_clipped_and_dropped_with_all_fields() -> None:
    before = results()
    found = detector_postprocess(before, 60, 20)
    assert found.image_size == (60, 20)
    assert found.pred_classes.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(found.pred_boxes.tensor[0], BOXES[0] * torch.tensor([0.5, 2, 0.5, 2]))
    assert found.pred_boxes.tensor[1].tolist() == [0, 0, 5.5, 18]
    assert found.pred_masks.shape == (5, 60, 20)
    # The input is as it was.
    assert torch.equal(before.pred_boxes.tensor, BOXES)
    assert before.pred_masks.shape == (6, 1, 28, 28)
    assert before.image_size == (30, 40)


def test_without_masks_and_without_detections() -> None:
    boxes_only = results()
    boxes_only.remove("pred_masks")
    assert not detector_postprocess(boxes_only, 30, 40).has("pred_masks")
    nothing = detector_postprocess(results()[:0], 25, 35)
    assert len(nothing) == 0
    assert nothing.pred_masks.shape == (0, 25, 35)


def test_keypoints_are_scaled_and_heatmaps_are_not() -> None:
    found = results()
    found.pred_keypoints = torch.ones(6, 2, 3)
    found.pred_keypoint_heatmaps = torch.ones(6, 2, 8, 8)
    scaled = detector_postprocess(found, 90, 80)
    assert torch.equal(scaled.pred_keypoints, torch.tensor([2.0, 3.0, 1.0]).expand(5, 2, 3))
    assert torch.equal(scaled.pred_keypoint_heatmaps, torch.ones(5, 2, 8, 8))
    assert torch.equal(found.pred_keypoints, torch.ones(6, 2, 3))
