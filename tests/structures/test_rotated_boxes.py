"""Rotated boxes: the methods by hand, and compared with those of plain boxes."""

import math

import pytest
import torch

from detexport.structures import Boxes, Instances, RotatedBoxes, pairwise_iou, pairwise_iou_rotated

PLAIN = torch.tensor([[10.0, 20.0, 4.0, 2.0, 0.0], [-1.0, 5.0, 8.0, 8.0, 0.0], [30.0, 30.0, 0.0, 3.0, 0.0]])


def as_boxes(tensor: torch.Tensor) -> Boxes:
    return Boxes(torch.cat((tensor[:, :2] - tensor[:, 2:4] / 2, tensor[:, :2] + tensor[:, 2:4] / 2), dim=1))


def test_it_behaves_like_a_list_of_boxes() -> None:
    boxes = RotatedBoxes(PLAIN.tolist())
    assert len(boxes) == 3
    assert boxes[0].tensor.shape == (1, 5)
    assert torch.equal(boxes[torch.tensor([False, True, True])].tensor, PLAIN[1:])
    assert torch.equal(torch.stack(list(boxes)), PLAIN)
    assert torch.equal(RotatedBoxes.cat([boxes[:1], boxes[1:]]).tensor, PLAIN)
    assert RotatedBoxes.cat([]).tensor.shape == RotatedBoxes([]).tensor.shape == (0, 5)
    joined = Instances.cat([Instances((40, 40), pred_boxes=boxes)] * 2)
    assert len(joined.pred_boxes) == 6
    with pytest.raises(ValueError, match=r"\(R, 5\)"):
        RotatedBoxes(torch.zeros(2, 4))


def test_at_angle_0_the_methods_are_those_of_plain_boxes() -> None:
    rotated, plain = RotatedBoxes(PLAIN), as_boxes(PLAIN)
    torch.testing.assert_close(rotated.area(), plain.area())
    torch.testing.assert_close(rotated.get_centers(), plain.get_centers())
    assert torch.equal(rotated.nonempty(), plain.nonempty())
    assert torch.equal(rotated.inside_box((31, 31)), plain.inside_box((31, 31)))
    torch.testing.assert_close(pairwise_iou_rotated(rotated, rotated), pairwise_iou(plain, plain))
    for change in (lambda boxes: boxes.clip((25, 12)), lambda boxes: boxes.scale(2.0, 0.5)):
        rotated, plain = RotatedBoxes(PLAIN.clone()), as_boxes(PLAIN)
        change(rotated)
        change(plain)
        torch.testing.assert_close(as_boxes(rotated.tensor).tensor, plain.tensor)


def test_angles_are_normalized() -> None:
    boxes = RotatedBoxes([[0, 0, 1, 1, angle] for angle in (180, -180, 540, -190, 359.5)])
    boxes.normalize_angles()
    assert boxes.tensor[:, 4].tolist() == [-180, -180, -180, 170, -0.5]


def test_only_nearly_horizontal_boxes_are_clipped() -> None:
    boxes = RotatedBoxes([[0, 0, 10, 10, 0.9], [0, 0, 10, 10, 1.1], [0, 0, 10, 10, 359.5]])
    boxes.clip((100, 100))
    torch.testing.assert_close(
        boxes.tensor,
        torch.tensor([[2.5, 2.5, 5, 5, 0.9], [0, 0, 10, 10, 1.1], [2.5, 2.5, 5, 5, -0.5]]),
        rtol=1e-5,
        atol=1e-4,
    )
    wide = RotatedBoxes([[0, 0, 10, 10, 30.0]])
    wide.clip((100, 100), clip_angle_threshold=45)
    assert wide.tensor[0, :4].tolist() == [2.5, 2.5, 5, 5]


def test_scaling_by_one_factor_keeps_the_angle() -> None:
    boxes = RotatedBoxes([[1, 2, 3, 4, 30.0]])
    boxes.scale(2, 2)
    torch.testing.assert_close(boxes.tensor, torch.tensor([[2.0, 4, 6, 8, 30]]))


def test_scaling_by_two_factors_by_hand() -> None:
    """At 45 degrees a side of 2 spans sqrt(2) in x and y; x is doubled."""
    boxes = RotatedBoxes([[1, 1, 2, 2, 45.0]])
    boxes.scale(2, 1)
    side = math.sqrt(8 + 2)
    angle = math.degrees(math.atan2(2, 1))
    torch.testing.assert_close(boxes.tensor, torch.tensor([[2.0, 1.0, side, side, angle]]))


def test_a_rotated_box_inside_the_image() -> None:
    """A square of side 2 reaches sqrt(2) from its centre at 45 degrees."""
    boxes = RotatedBoxes([[1.5, 5, 2, 2, 45.0], [1.3, 5, 2, 2, 45.0]])
    assert boxes.inside_box((10, 10)).tolist() == [True, False]
    assert boxes.inside_box((10, 10), boundary_threshold=1).tolist() == [True, True]
