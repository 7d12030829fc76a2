import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from detexport.contract import keypoint_output
from detexport.errors import ArtifactError
from detexport.postprocess import paste_masks, postprocess
from tiny_artifacts import GRID, tiny_contract


def raw(boxes: list[list[float]], grids: np.ndarray | None = None) -> dict[str, np.ndarray]:
    count = len(boxes)
    return {
        "pred_boxes": np.array(boxes, np.float32).reshape(count, 4),
        "scores": np.linspace(0.9, 0.3, count, dtype=np.float32),
        "pred_classes": np.arange(count),
        "pred_masks": np.ones((count, GRID, GRID), np.float32) if grids is None else grids,
    }


def test_boxes_are_scaled_then_clipped_and_empty_ones_take_all_their_fields_along() -> None:
    outputs = raw([[5, 5, 10, 20], [40, 2, 60, 9], [-3, 4, 100, 12]])
    result = postprocess(outputs, (20, 40), (40, 120), tiny_contract())
    np.testing.assert_array_equal(result["pred_boxes"], [[15, 10, 30, 40], [0, 8, 120, 24]])
    np.testing.assert_array_equal(result["pred_classes"], [0, 2])
    np.testing.assert_array_equal(result["scores"], outputs["scores"][[0, 2]])
    assert result["pred_masks"].shape == (2, 40, 120)
    assert {name: value.dtype.name for name, value in result.items()} == {
        "pred_boxes": "float32",
        "scores": "float32",
        "pred_classes": "int64",
        "pred_masks": "bool",
    }


def test_a_full_grid_fills_its_box_and_nothing_else() -> None:
    mask = postprocess(raw([[10, 4, 30, 16]]), (20, 40), (20, 40), tiny_contract())["pred_masks"][0]
    expected = np.zeros((20, 40), bool)
    expected[4:16, 10:30] = True
    # At the corners a quarter of the probability comes from outside, so they are excepted by half a cell.
    assert (mask != expected).sum() <= 4


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_pasting_equals_grid_sample_over_the_whole_image(threshold: float) -> None:
    rng = np.random.default_rng(3)
    height, width = 57, 83
    corners = rng.uniform(0, 1, (40, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(1), corners.max(1) + 0.3], 1).clip(0, [width, height] * 2)
    boxes = boxes.astype(np.float32)
    grids = rng.uniform(0, 1, (40, GRID, GRID)).astype(np.float32)

    x0, y0, x1, y1 = torch.from_numpy(boxes).T[:, :, None]
    x = ((torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1)[:, None, :].expand(-1, height, -1)
    y = ((torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1)[:, :, None].expand(-1, -1, width)
    sampled = grid_sample(torch.from_numpy(grids)[:, None], torch.stack([x, y], 3), align_corners=False)[:, 0]

    masks = paste_masks(grids, boxes, (height, width), threshold=threshold)
    differs = masks != (sampled >= threshold).numpy()
    assert np.abs(sampled.numpy()[differs] - threshold).max(initial=0) < 1e-4
    assert differs.mean() < 1e-4
    assert masks.any()


def test_no_detection_gives_empty_fields_of_the_right_shape() -> None:
    result = postprocess(raw([]), (20, 40), (10, 20), tiny_contract())
    assert {name: value.shape for name, value in result.items()} == {
        "pred_boxes": (0, 4),
        "scores": (0,),
        "pred_classes": (0,),
        "pred_masks": (0, 10, 20),
    }


def test_a_model_without_masks_has_no_masks() -> None:
    contract = tiny_contract(outputs=tiny_contract().outputs[:3])
    outputs = raw([[1, 1, 5, 5]])
    del outputs["pred_masks"]
    assert set(postprocess(outputs, (20, 40), (20, 40), contract)) == {"pred_boxes", "scores", "pred_classes"}


def test_masks_that_are_pasted_already_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"not a grid over each box.*\(1, 20, 40\)"):
        postprocess(raw([[1, 1, 5, 5]], np.ones((1, 20, 40), bool)), (20, 40), (20, 40), tiny_contract())


def test_keypoints_are_scaled_and_go_with_their_boxes() -> None:
    contract = tiny_contract(outputs=(*tiny_contract().outputs[:3], keypoint_output(2)))
    outputs = raw([[5, 5, 10, 20], [40, 2, 60, 9]])
    del outputs["pred_masks"]
    outputs["pred_keypoints"] = np.array([[[6, 7, 0.5], [8, 19, 0.1]]] * 2, np.float32)
    result = postprocess(outputs, (20, 40), (40, 120), contract)
    assert result["pred_keypoints"].dtype == np.float32
    np.testing.assert_allclose(result["pred_keypoints"], [[[18, 14, 0.5], [24, 38, 0.1]]])
