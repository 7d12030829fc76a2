import pytest
import torch

from detexport.structures import Keypoints

POINTS = Keypoints([[[1, 2, 2], [3, 4, 0]], [[5, 6, 1], [8, 8, 2]]])


def test_indexing_and_cat() -> None:
    assert len(POINTS) == 2
    assert POINTS.tensor.dtype == torch.float32
    assert torch.equal(POINTS[1].tensor, POINTS.tensor[1:])
    assert torch.equal(POINTS[torch.tensor([True, False])].tensor, POINTS.tensor[:1])
    assert torch.equal(Keypoints.cat([POINTS[1], POINTS[0]]).tensor, POINTS.tensor.flip(0))
    assert [one.shape for one in POINTS] == [(2, 3)] * 2
    assert str(POINTS) == "Keypoints(2 instances, 2 keypoints each)"
    assert POINTS.to("cpu").device == torch.device("cpu")


def test_cells_of_a_grid_over_the_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 4.0, 8.0, 8.0]])
    cells, inside = POINTS.to_heatmap(boxes, 8)
    # The second is unlabelled, on the bottom edge; the fourth, on the corner, is in the last cell.
    assert inside.tolist() == [[True, False], [True, True]]
    assert cells.tolist() == [[4 * 8 + 2, 0], [4 * 8 + 2, 63]]
    assert not POINTS.to_heatmap(boxes.flip(0), 8)[1].any()
    with pytest.raises(ValueError, match="2 instances need as many boxes, got 1"):
        POINTS.to_heatmap(boxes[:1], 8)


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 2), (1, 2, 4, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(R, K, 3\)"):
        Keypoints(torch.zeros(shape))
