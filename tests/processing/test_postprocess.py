import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample, interpolate

from detexport.contract import ROTATED_DETECTION_OUTPUTS, PanopticRule, keypoint_output
from detexport.errors import ArtifactError
from detexport.export.graph_end import postprocess_outputs
from detexport.modeling.meta_arch.panoptic_fpn import PanopticCombination
from detexport.modeling.meta_arch.proposal_network import postprocess_proposals
from detexport.modeling.postprocessing import detector_postprocess
from detexport.processing.postprocess import combine_panoptic, paste_masks, postprocess, resize_bilinear
from detexport.structures import Boxes, Instances, RotatedBoxes
from tiny_artifacts import GRID, KINDS, tiny_contract

ORACLE = os.environ.get("DETEXPORT_ORACLE")


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


def test_a_pasted_mask_and_keypoints_go_with_their_boxes() -> None:
    contract = tiny_contract(outputs=(*tiny_contract().outputs, keypoint_output(1)))
    outputs = raw([[40, 2, 60, 9], [5, 5, 10, 20]])
    outputs["pred_keypoints"] = np.array([[[50, 5, 1]], [[6, 7, 2]]], np.float32)
    result = postprocess(outputs, (20, 40), (20, 40), contract)
    assert {name: len(value) for name, value in result.items()} == dict.fromkeys(result, 1)
    assert result["pred_keypoints"].tolist() == [[[6, 7, 2]]]


def test_proposals_are_those_of_the_eager_model() -> None:
    rng = np.random.default_rng(1)
    boxes = rng.uniform(-10, 50, (200, 4)).astype(np.float32)
    logits = np.sort(rng.normal(0, 9, 200))[::-1].astype(np.float32)
    outputs = {"proposal_boxes": boxes, "objectness_logits": logits}
    result = postprocess(outputs, (20, 40), (50, 75), tiny_contract(**KINDS["proposals"]))
    fields = {"proposal_boxes": Boxes(torch.from_numpy(boxes)), "objectness_logits": torch.from_numpy(logits)}
    expected = postprocess_proposals(Instances((20, 40), **fields), 50, 75)
    assert 0 < len(expected) < 200
    np.testing.assert_allclose(result["proposal_boxes"], expected.proposal_boxes.tensor, rtol=1e-6)
    np.testing.assert_array_equal(result["objectness_logits"], expected.objectness_logits)


@pytest.mark.parametrize("size", [(13, 17), (26, 34), (40, 9), (5, 7), (1, 1), (13, 18)])
def test_maps_are_resized_as_torch_does(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(2).normal(0, 10, (3, 13, 17)).astype(np.float32)
    expected = interpolate(torch.from_numpy(maps)[None], size=size, mode="bilinear", align_corners=False)[0]
    resized = resize_bilinear(maps, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected.numpy(), atol=2e-5)
    if size == (13, 17):
        np.testing.assert_array_equal(resized, maps)


def eager_combination(outputs: dict[str, np.ndarray], labels: np.ndarray, rule: PanopticRule) -> object:
    combination = PanopticCombination(**vars(rule))
    fields = {name: torch.from_numpy(outputs[name]) for name in ("scores", "pred_classes", "pred_masks")}
    ids, info = combination(Instances(labels.shape, **fields), torch.from_numpy(labels))
    return ids.numpy(), info


@pytest.mark.parametrize("seed", range(8))
def test_panoptic_segments_are_those_of_the_eager_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, size = int(rng.integers(0, 12)), (40, 60)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        (top, bottom), (left, right) = np.sort(rng.integers(0, 40, 2)), np.sort(rng.integers(0, 60, 2))
        mask[top:bottom, left:right] = True
    outputs = {
        "scores": np.sort(rng.uniform(0.1, 1, count))[::-1].astype(np.float32),
        "pred_classes": rng.integers(0, 5, count),
        "pred_masks": masks,
    }
    labels = rng.integers(0, 4, (4, 6)).repeat(10, 0).repeat(10, 1)
    rule = PanopticRule(overlap_threshold=0.5, stuff_area_limit=150, instances_score_threshold=0.3)
    ids, info = combine_panoptic(outputs, labels, rule)
    expected_ids, expected_info = eager_combination(outputs, labels, rule)
    np.testing.assert_array_equal(ids, expected_ids)
    assert ids.dtype == np.int32
    assert info == expected_info
    assert json.loads(json.dumps(info)) == info


@pytest.mark.skipif(ORACLE is None, reason="DETEXPORT_ORACLE names no folder")
def test_panoptic_segments_are_those_of_an_independent_implementation() -> None:
    with np.load(Path(str(ORACLE)) / "panoptic_fpn_R50" / "outputs.npz", allow_pickle=False) as file:
        stored = dict(file)
    shape = stored["im0_pred_masks_shape"]
    masks = np.unpackbits(stored["im0_pred_masks_packed"], count=int(np.prod(shape))).reshape(shape)
    outputs = {
        "scores": stored["im0_scores"],
        "pred_classes": stored["im0_pred_classes"],
        "pred_masks": masks.astype(bool),
    }
    rule = PanopticRule(overlap_threshold=0.5, stuff_area_limit=600, instances_score_threshold=0.5)
    ids, info = combine_panoptic(outputs, stored["im0_sem_seg"].argmax(0), rule)
    np.testing.assert_array_equal(ids, stored["im0_panoptic_seg"])
    expected = json.loads(str(stored["im0_segments_info"]))
    assert {one["isthing"] for one in expected} == {True, False}
    for one, wanted in zip(info, expected, strict=True):
        assert one.pop("score", 0) == pytest.approx(wanted.pop("score", 0))
        assert one == wanted


def test_segments_follow_from_the_resized_outputs() -> None:
    contract = tiny_contract(**KINDS["panoptic"])
    outputs = raw([[5, 5, 15, 15]]) | {"sem_seg": np.zeros((3, 20, 40), np.float32)}
    outputs["sem_seg"][2] = 1
    result = postprocess(outputs, (20, 40), (40, 80), contract)
    assert result["sem_seg"].shape == (3, 40, 80)
    thing, stuff = result["segments_info"]
    assert thing == {
        "id": 1,
        "isthing": True,
        "score": pytest.approx(0.9),
        "category_id": 0,
        "instance_id": 0,
    }
    assert stuff == {
        "id": 2,
        "isthing": False,
        "category_id": 2,
        "area": 40 * 80 - int((result["pred_masks"]).sum()),
    }
    np.testing.assert_array_equal(result["panoptic_seg"] == 1, result["pred_masks"][0])


def test_a_model_of_pixels_has_no_detections() -> None:
    outputs = {"sem_seg": np.ones((3, 20, 40), np.float32)}
    assert set(postprocess(outputs, (20, 40), (10, 20), tiny_contract(**KINDS["semantic"]))) == {"sem_seg"}


def test_what_is_in_the_outputs_frame_stays_as_it_is() -> None:
    raw_contract = tiny_contract(**KINDS["panoptic"])
    outputs = raw([[5, 5, 15, 15]]) | {"sem_seg": np.zeros((3, 20, 40), np.float32)}
    outputs["sem_seg"][2] = 1
    expected = postprocess(outputs, (20, 40), (40, 80), raw_contract)
    placed = {name: expected[name] for name in raw_contract.output_names}
    result = postprocess(placed, (20, 40), (40, 80), raw_contract.ending("pasted"))
    assert all(result[name] is value for name, value in placed.items())
    np.testing.assert_array_equal(result["panoptic_seg"], expected["panoptic_seg"])
    assert result["segments_info"] == expected["segments_info"]


def test_rotated_boxes_are_scaled_and_clipped_as_by_the_eager_model_and_in_a_graph() -> None:
    boxes = np.array(
        [[20, 10, 16, 6, 30], [5, 6, 20, 8, 0.5], [30, 10, 8, 4, -170], [60, 10, 8, 4, 0], [2, 2, 4, 2, 400]],
        np.float32,
    )
    outputs = raw([[0, 0, 1, 1]] * len(boxes)) | {"pred_boxes": boxes}
    del outputs["pred_masks"]
    result = postprocess(outputs, (20, 40), (60, 80), tiny_contract(outputs=ROTATED_DETECTION_OUTPUTS))
    eager = detector_postprocess(
        Instances(
            (20, 40),
            **{
                "pred_boxes": RotatedBoxes(torch.from_numpy(boxes)),
                "scores": torch.from_numpy(outputs["scores"]),
                "pred_classes": torch.from_numpy(outputs["pred_classes"]),
            },
        ),
        60,
        80,
    )
    # The horizontal box outside the image is empty after clipping.
    assert result["pred_classes"].tolist() == eager.pred_classes.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(result["pred_boxes"], eager.pred_boxes.tensor, rtol=0, atol=1e-4)
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    tensors = {name: torch.from_numpy(value) for name, value in outputs.items()}
    pasted = postprocess_outputs(tensors, image, torch.tensor([60, 80]), 0.5)
    np.testing.assert_allclose(pasted["pred_boxes"], eager.pred_boxes.tensor, rtol=0, atol=1e-4)
