"""An artifact on a decoded image: what is kept, and what becomes of it in JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detexport.predictions.predict_images import predict, to_plain
from detexport.runtime.onnxruntime import OnnxRuntime
from tiny_artifacts import KINDS, SCORE_THRESHOLD, tiny_contract, tiny_image, write_tiny_onnx

IMAGE = tiny_image(60, 90)
COLUMNS = {
    "instances": {"boxes", "scores", "classes", "class_names", "masks"},
    "keypoints": {"boxes", "scores", "classes", "class_names", "keypoints"},
    "semantic": {"sem_seg"},
    "panoptic": {"boxes", "scores", "classes", "class_names", "masks", "sem_seg", "panoptic_seg"},
    "proposals": {"proposal_boxes", "objectness_logits"},
}


def found(kind: str, folder: Path, threshold: float = 0.0) -> tuple[dict[str, Any], Any]:
    artifact = write_tiny_onnx(folder / kind, kind)
    outputs = predict(OnnxRuntime(threads=1).open(folder / kind), IMAGE, threshold)
    return outputs, artifact.contract


def unpacked(rle: dict[str, Any]) -> np.ndarray:
    mask: np.ndarray = coco_mask.decode({**rle, "counts": rle["counts"].encode("ascii")}).astype(bool)
    return mask


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_output_is_plain_json(kind: str, tmp_path: Path) -> None:
    row = to_plain(*found(kind, tmp_path))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row.keys() == COLUMNS[kind]


def test_columns_have_the_values_of_the_arrays(tmp_path: Path) -> None:
    outputs, contract = found("keypoints", tmp_path)
    row = to_plain(outputs, contract)
    for column, name in (("boxes", "pred_boxes"), ("scores", "scores"), ("keypoints", "pred_keypoints")):
        np.testing.assert_array_equal(np.array(row[column], np.float32), outputs[name])
    assert row["class_names"] == [contract.class_names[index] for index in row["classes"]]


def test_masks_are_in_the_images_size_and_come_back(tmp_path: Path) -> None:
    outputs, contract = found("instances", tmp_path)
    masks = to_plain(outputs, contract)["masks"]
    assert [rle["size"] for rle in masks] == [[60, 90]] * 3
    np.testing.assert_array_equal([unpacked(rle) for rle in masks], outputs["pred_masks"])


def test_pixels_are_listed_by_the_classes_that_the_image_has(tmp_path: Path) -> None:
    outputs, contract = found("semantic", tmp_path)
    outputs["sem_seg"][1] = -9.0
    listed = to_plain(outputs, contract)["sem_seg"]
    labels = outputs["sem_seg"].argmax(0)
    assert [one["class"] for one in listed] == np.unique(labels).tolist()
    assert 1 not in labels
    for one in listed:
        assert one["class_name"] == contract.stuff_class_names[one["class"]]
        np.testing.assert_array_equal(unpacked(one["mask"]), labels == one["class"])


def test_a_segment_names_its_instance_or_that_it_is_stuff() -> None:
    contract = tiny_contract(**KINDS["panoptic"])
    panoptic = np.array([[1, 1, 2, 0]], np.int32)
    segments = [
        {"id": 1, "isthing": True, "category_id": 2, "instance_id": 4},
        {"id": 2, "isthing": False, "category_id": 1},
    ]
    thing, stuff = to_plain({"panoptic_seg": panoptic, "segments_info": segments}, contract)["panoptic_seg"]
    assert (thing["class_name"], thing["instance"]) == (contract.class_names[2], 4)
    assert (stuff["class_name"], stuff["instance"]) == (contract.stuff_class_names[1], -1)
    assert unpacked(thing["mask"]).tolist() == [[True, True, False, False]]


def test_an_image_without_detections_has_empty_columns(tmp_path: Path) -> None:
    outputs, contract = found("instances", tmp_path, threshold=1.0)
    row = to_plain(outputs, contract)
    assert row == {"boxes": [], "scores": [], "classes": [], "class_names": [], "masks": []}


@pytest.mark.parametrize("kind", ["instances", "keypoints", "panoptic"])
def test_a_threshold_keeps_greater_scores_with_all_their_fields(kind: str, tmp_path: Path) -> None:
    every, contract = found(kind, tmp_path)
    assert len(every["scores"]) == 3
    kept, _ = found(kind, tmp_path, float(every["scores"][1]))
    for name in contract.row_names:
        np.testing.assert_array_equal(kept[name], every[name][:1])


def test_a_threshold_below_the_models_own_adds_nothing(tmp_path: Path) -> None:
    image = tiny_image(60, 90, (200, 90, 20))
    write_tiny_onnx(tmp_path / "a")
    scores = predict(OnnxRuntime(threads=1).open(tmp_path / "a"), image, 0.0)["scores"]
    assert len(scores) == 2
    assert (scores > SCORE_THRESHOLD).all()


def test_proposals_have_no_threshold(tmp_path: Path) -> None:
    assert len(found("proposals", tmp_path, threshold=1.0)[0]["proposal_boxes"]) == 3
