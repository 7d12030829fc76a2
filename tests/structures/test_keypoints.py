import pytest
import torch
import torch.nn.functional as F

from detexport.structures import Keypoints, heatmaps_to_keypoints

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


def test_keypoints_are_the_maxima_of_the_resized_heatmaps() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 8, 8)
    rois = torch.tensor([[10.0, 20.0, 26.0, 36.0], [3.5, 4.0, 3.75, 9.5]])
    found = heatmaps_to_keypoints(maps, rois)
    assert found.shape == (2, 3, 4)
    for map_, roi, keypoints in zip(maps, rois, found, strict=True):
        width, height = (roi[2:] - roi[:2]).clamp(min=1).ceil().int().tolist()
        for heatmap, (x, y, logit, score) in zip(map_, keypoints, strict=True):
            resized = F.interpolate(
                heatmap[None, None], size=(height, width), mode="bicubic", align_corners=False
            )[0, 0]
            row, column = divmod(int(resized.argmax()), width)
            scale = (roi[2:] - roi[:2]).clamp(min=1) / torch.tensor([width, height])
            torch.testing.assert_close(x, roi[0] + (column + 0.5) * scale[0])
            torch.testing.assert_close(y, roi[1] + (row + 0.5) * scale[1])
            assert logit == resized.max()
            torch.testing.assert_close(score, 1 / (heatmap - logit).exp().sum())
    assert heatmaps_to_keypoints(maps[:0], rois[:0]).shape == (0, 3, 4)
