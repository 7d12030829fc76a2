"""Functions that loop over values are refused in a trace, or record what they do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detexport.errors import ExportError
from detexport.layers import batched_nms_rotated, nms_rotated, paste_masks_in_image
from detexport.layers.roi_align_rotated import roi_align_rotated
from detexport.structures import heatmaps_to_keypoints

BOXES = torch.tensor([[10.0, 10, 4, 8, 30], [30, 20, 6, 6, 0]])
SCORES = torch.tensor([0.5, 0.7])
ROIS = torch.cat([torch.zeros(2, 1), BOXES], dim=1)


@pytest.mark.parametrize(
    ("call", "inputs"),
    [
        (lambda boxes, scores: nms_rotated(boxes, scores, 0.5), (BOXES, SCORES)),
        (lambda boxes, scores: batched_nms_rotated(boxes, scores, scores.long(), 0.5), (BOXES, SCORES)),
        (lambda maps, rois: roi_align_rotated(maps, rois, 2, 1.0, 1), (torch.rand(1, 3, 32, 48), ROIS)),
        (heatmaps_to_keypoints, (torch.rand(2, 3, 8, 8), torch.tensor([[0.0, 0, 9, 9]] * 2))),
    ],
)
def test_a_loop_over_values_is_refused_in_a_trace(
    call: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    assert len(call(*inputs)) > 0
    with pytest.raises(ExportError, match=r"a trace would keep the values.*remedy"):
        torch.jit.trace(call, inputs, check_trace=False)


def test_a_trace_pastes_masks_into_other_boxes() -> None:
    def paste(masks: Tensor, boxes: Tensor) -> Tensor:
        return paste_masks_in_image(masks, boxes, (24, 32))

    masks = torch.rand(3, 7, 7)
    boxes = torch.tensor([[2.0, 3, 15, 12], [0, 0, 31, 23], [20.5, 7.2, 25.1, 20]])
    traced = torch.jit.trace(paste, (masks[:1], boxes[:1] + 4), check_trace=False)
    assert torch.equal(traced(masks, boxes), paste(masks, boxes))
