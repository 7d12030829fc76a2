import numpy as np
import pytest
import torch

from detexport.structures import BoxMode

XYXY, XYWH = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS


def test_values_are_those_stored_in_annotations() -> None:
    assert [int(mode) for mode in BoxMode] == [0, 1, 2, 3, 4]
    assert BoxMode.convert([1, 2, 3, 4], 1, 0) == [1, 2, 4, 6]


@pytest.mark.parametrize("kind", [list, tuple])
def test_plain_boxes_keep_their_type(kind: type) -> None:
    converted = BoxMode.convert(kind([1.5, 2, 3, 4]), XYWH, XYXY)
    assert type(converted) is kind
    assert converted == kind([1.5, 2, 4.5, 6])


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_arrays_are_converted_back_and_forth(make: type) -> None:
    boxes = make([[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, 1.0, 1.0]])
    there = BoxMode.convert(boxes, XYXY, XYWH)
    assert type(there) is type(boxes)
    assert there.tolist() == [[1, 2, 3, 4], [0, 0, 1, 1]]
    assert boxes[0, 2] == 4
    assert BoxMode.convert(there, XYWH, XYXY).tolist() == boxes.tolist()
    assert BoxMode.convert(boxes[:0], XYXY, XYWH).shape == (0, 4)
    assert BoxMode.convert(boxes, XYXY, XYXY) is not boxes


@pytest.mark.parametrize("mode", ["XYXY_REL", "XYWH_REL"])
def test_relative_boxes_are_refused_by_name(mode: str) -> None:
    for modes in ((BoxMode[mode], XYXY), (XYXY, BoxMode[mode])):
        with pytest.raises(NotImplementedError, match=rf"BoxMode\.{mode} are not supported"):
            BoxMode.convert([0, 0, 1, 1, 30], *modes)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(R, 4\)"):
        BoxMode.convert(torch.zeros(2, 5), XYXY, XYWH)
    with pytest.raises(ValueError, match=r"\(R, 4\)"):
        BoxMode.convert([0, 0, 1], XYXY, XYWH)


def test_a_rotated_box_becomes_the_box_around_it() -> None:
    rotated = [[50.0, 40.0, 20.0, 10.0, 90.0], [50.0, 40.0, 20.0, 10.0, -180.0]]
    found = BoxMode.convert(torch.tensor(rotated), BoxMode.XYWHA_ABS, XYXY)
    torch.testing.assert_close(found, torch.tensor([[45.0, 30.0, 55.0, 50.0], [40.0, 35.0, 60.0, 45.0]]))
    assert BoxMode.convert((1, 2, 3, 4), XYWH, BoxMode.XYWHA_ABS) == (2.5, 4, 3, 4, 0)
    with pytest.raises(ValueError, match=r"\(R, 5\)"):
        BoxMode.convert([0, 0, 1, 1], BoxMode.XYWHA_ABS, XYXY)


def test_gradients_and_traces_pass_a_conversion() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0]], requires_grad=True)
    BoxMode.convert(boxes, XYXY, XYWH).sum().backward()
    assert boxes.grad is not None
    assert boxes.grad.tolist() == [[0, 0, 1, 1]]
    traced = torch.jit.trace(lambda x: BoxMode.convert(x, XYXY, XYWH), boxes.detach(), check_trace=False)
    assert traced(torch.tensor([[0.0, 0, 5, 7], [1, 1, 2, 3]])).tolist() == [[0, 0, 5, 7], [1, 1, 1, 2]]
