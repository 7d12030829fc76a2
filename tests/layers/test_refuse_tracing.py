"""Functions that loop over values are refused in a trace, or record what they do."""

import pytest
import torch
from torch import Tensor

from detexport.errors import ExportError
from detexport.layers import paste_masks_in_image
from detexport.structures import heatmaps_to_keypoints


def test_a_loop_over_values_is_refused_in_a_trace() -> None:
    inputs = torch.rand(2, 3, 8, 8), torch.tensor([[0.0, 0, 9, 9]] * 2)
    assert len(heatmaps_to_keypoints(*inputs)) > 0
    with pytest.raises(ExportError, match=r"cannot be traced.*remedy"):
        torch.jit.trace(heatmaps_to_keypoints, inputs, check_trace=False)


def test_a_trace_pastes_masks_into_other_boxes() -> None:
    def paste(masks: Tensor, boxes: Tensor) -> Tensor:
        return paste_masks_in_image(masks, boxes, (24, 32))

    masks = torch.rand(3, 7, 7)
    boxes = torch.tensor([[2.0, 3, 15, 12], [0, 0, 31, 23], [20.5, 7.2, 25.1, 20]])
    traced = torch.jit.trace(paste, (masks[:1], boxes[:1] + 4), check_trace=False)
    assert torch.equal(traced(masks, boxes), paste(masks, boxes))
