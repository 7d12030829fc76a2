import pytest
import torch

from detexport.structures import (
    Boxes,
    pairwise_intersection,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detexport.structures.boxes import clip_boxes, matched_pairwise_iou, nonempty_boxes


def test_boxes_from_lists_and_tensors_are_float32() -> None:
    assert Boxes([[0, 1, 2, 3]]).tensor.dtype == torch.float32
    assert Boxes(torch.zeros(2, 4, dtype=torch.float64)).tensor.dtype == torch.float32


@pytest.mark.parametrize(
    "empty", [[], torch.zeros(0), torch.zeros(0, 4), torch.zeros(0, 5), torch.zeros(1, 0)]
)
def test_empty_boxes_may_have_any_shape(empty: torch.Tensor | list[list[float]]) -> None:
    boxes = Boxes(empty)
    assert boxes.tensor.shape == (0, 4)
    assert boxes.area().shape == boxes.nonempty().shape == (0,)


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(R, 4\)"):
        Boxes(torch.zeros(shape))


def test_area_centers_and_emptiness() -> None:
    boxes = Boxes([[0, 0, 4, 2], [1, 1, 1, 5], [3, 3, 2, 2]])
    assert boxes.area().tolist() == [8, 0, 1]
    assert boxes.get_centers().tolist() == [[2, 1], [1, 3], [2.5, 2.5]]
    assert boxes.nonempty().tolist() == [True, False, False]
    assert boxes.nonempty(threshold=2).tolist() == [False, False, False]
    assert nonempty_boxes(boxes.tensor, 1.9).tolist() == [True, False, False]


def test_clip_takes_height_first() -> None:
    boxes = Boxes([[-5, -5, 30, 30], [21, 11, 22, 12]])
    boxes.clip((10, 20))
    assert boxes.tensor.tolist() == [[0, 0, 20, 10], [20, 10, 20, 10]]
    assert torch.equal(clip_boxes(boxes.tensor, (10, 20)), boxes.tensor)


def test_scale_has_factors_for_x_and_y_and_a_clone_is_independent() -> None:
    boxes = Boxes([[1, 2, 3, 4]])
    copy = boxes.clone()
    boxes.scale(2, 10)
    assert boxes.tensor.tolist() == [[2, 20, 6, 40]]
    assert copy.tensor.tolist() == [[1, 2, 3, 4]]


def test_inside_box() -> None:
    boxes = Boxes([[0, 0, 9.5, 4.5], [-1, 0, 5, 4], [0, 0, 10, 4]])
    assert boxes.inside_box((5, 10)).tolist() == [True, False, False]
    assert boxes.inside_box((5, 10), boundary_threshold=1).tolist() == [True, True, True]


def test_indexing_iteration_and_cat() -> None:
    boxes = Boxes([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]])
    assert boxes[1].tensor.tolist() == [[0, 0, 2, 2]]
    assert boxes[-1].tensor.tolist() == [[0, 0, 3, 3]]
    assert len(boxes[1:]) == 2
    assert boxes[torch.tensor([True, False, True])].tensor[:, 2].tolist() == [1, 3]
    assert boxes[torch.tensor([2, 0])].tensor[:, 2].tolist() == [3, 1]
    assert [box.shape for box in boxes] == [(4,)] * 3
    assert torch.equal(Boxes.cat([boxes, boxes[:1]]).tensor, torch.cat([boxes.tensor, boxes.tensor[:1]]))
    assert len(Boxes.cat([])) == 0
    assert "Boxes(" in repr(boxes)


def test_pairwise_iou_by_hand() -> None:
    first = Boxes([[0, 0, 2, 2], [5, 5, 5, 5]])
    second = Boxes([[0, 0, 2, 2], [1, 1, 3, 3], [9, 9, 10, 10], [5, 5, 5, 5]])
    expected = torch.tensor([[1, 1 / 7, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(pairwise_iou(first, second), expected)
    assert pairwise_iou(Boxes([]), second).shape == (0, 4)


def test_pairwise_intersection_and_ioa_by_hand() -> None:
    first = Boxes([[0, 0, 4, 4], [5, 5, 5, 9]])
    second = Boxes([[2, 2, 6, 4], [0, 0, 1, 1], [5, 5, 5, 9], [9, 9, 10, 10]])
    assert pairwise_intersection(first, second).tolist() == [[4, 1, 0, 0], [0, 0, 0, 0]]
    assert pairwise_ioa(first, second).tolist() == [[0.5, 1, 0, 0], [0, 0, 0, 0]]
    assert pairwise_ioa(first, Boxes([])).shape == (2, 0)


def test_matched_iou_is_the_diagonal_of_the_pairwise_one() -> None:
    first = Boxes([[0, 0, 4, 4], [5, 5, 5, 9], [0, 0, 2, 2]])
    second = Boxes([[2, 2, 6, 4], [0, 0, 1, 1], [0, 0, 2, 1]])
    assert torch.equal(matched_pairwise_iou(first, second), pairwise_iou(first, second).diagonal())
    with pytest.raises(ValueError, match="got 3 and 2"):
        matched_pairwise_iou(first, second[:2])


def test_distances_of_points_to_edges() -> None:
    distances = pairwise_point_box_distance(torch.tensor([[1.0, 2.0], [9.0, 0.0]]), Boxes([[0, 0, 4, 8]]))
    assert distances.tolist() == [[[1, 2, 3, 6]], [[9, 0, -5, 8]]]
