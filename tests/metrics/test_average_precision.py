"""COCO AP of perfect, wrong, missing and partly correct detections."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated import Prediction, ground_truth, ground_truth_keypoints
from detexport.data.coco import CocoDataset, load_coco, read_coco
from detexport.errors import ConfigError, DataError, MissingAnnotationsError
from detexport.metrics.average_precision import METRICS, coco_ap
from synthetic_shapes import synthetic_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=5).write(path)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> CocoDataset:
    return load_coco(folder, "val")


def empty(image_id: int) -> Prediction:
    return image_id, {
        "pred_boxes": np.zeros((0, 4), np.float32),
        "scores": np.zeros(0, np.float32),
        "pred_classes": np.zeros(0, np.int64),
        "pred_masks": np.zeros((0, 20, 30), bool),
    }


def test_ground_truth_has_ap_one(dataset: CocoDataset, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(ground_truth(dataset))
    capsys.readouterr()
    metrics = coco_ap(dataset.annotation_file, found, dataset.category_ids)
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75"} <= set(metrics)
    assert set(metrics) <= {f"{iou_type}/{name}" for iou_type in ("bbox", "segm") for name in METRICS}
    assert all(value == pytest.approx(1.0) for value in metrics.values())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("found", [[], [empty(1), empty(2)]], ids=["no image", "empty images"])
def test_no_detections_have_ap_zero(dataset: CocoDataset, found: list[Prediction]) -> None:
    metrics = coco_ap(dataset.annotation_file, found, dataset.category_ids)
    assert metrics["bbox/AP"] == metrics["segm/AP"] == 0.0


def test_a_wrong_class_counts(dataset: CocoDataset) -> None:
    shifted = [(i, {**p, "pred_classes": (p["pred_classes"] + 1) % 5}) for i, p in ground_truth(dataset)]
    assert coco_ap(dataset.annotation_file, shifted, dataset.category_ids)["bbox/AP50"] < 0.1


def test_boxes_and_masks_are_evaluated_separately(dataset: CocoDataset) -> None:
    def enlarge(boxes: np.ndarray) -> np.ndarray:
        """Scale the area by 1.5: IoU 2/3, a match at thresholds up to 0.65."""
        center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        return np.concatenate([center - half * 1.5**0.5, center + half * 1.5**0.5], axis=1)

    found = [(i, {**p, "pred_boxes": enlarge(p["pred_boxes"])}) for i, p in ground_truth(dataset)]
    metrics = coco_ap(dataset.annotation_file, found, dataset.category_ids)
    assert metrics["segm/AP"] == pytest.approx(1.0)
    assert metrics["bbox/AP50"] == pytest.approx(1.0)
    assert metrics["bbox/AP75"] < 0.2
    assert metrics["bbox/AP"] == pytest.approx(0.4, abs=0.05)


def test_an_image_without_predictions_counts(dataset: CocoDataset) -> None:
    found = list(ground_truth(dataset))[:3]
    assert 0.2 < coco_ap(dataset.annotation_file, found, dataset.category_ids)["bbox/AP"] < 0.95


def test_classes_are_indices_into_the_category_ids(folder: Path) -> None:
    dataset = load_coco(folder, "val", ["star", "circle"])
    metrics = coco_ap(dataset.annotation_file, ground_truth(dataset), dataset.category_ids)
    assert metrics["segm/AP"] == pytest.approx(1.0)


def test_boxes_alone(dataset: CocoDataset) -> None:
    boxes = [(i, {k: v for k, v in p.items() if k != "pred_masks"}) for i, p in ground_truth(dataset)]
    metrics = coco_ap(dataset.annotation_file, boxes, dataset.category_ids, iou_types=("bbox",))
    assert metrics["bbox/AP"] == pytest.approx(1.0)
    assert not any(key.startswith("segm") for key in metrics)


def test_an_annotation_of_id_zero_can_be_matched(dataset: CocoDataset, tmp_path: Path) -> None:
    value = json.loads(dataset.annotation_file.read_text())
    for number, annotation in enumerate(value["annotations"]):
        annotation["id"] = number
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(value))
    assert coco_ap(path, ground_truth(dataset), dataset.category_ids)["bbox/AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("ids", [{2: "b"}, {1: "é/..", 2: "2", 3: 2}, {1: -1, 2: 0, 3: 2**62}])
def test_ids_are_integers_and_strings(
    folder: Path, dataset: CocoDataset, tmp_path: Path, ids: dict[int, Any]
) -> None:
    value = json.loads(dataset.annotation_file.read_text())
    for entry, key in [(i, "id") for i in value["images"]] + [(a, "image_id") for a in value["annotations"]]:
        entry[key] = ids.get(entry[key], entry[key])
    for entry, key in [(c, "id") for c in value["categories"]] + [
        (a, "category_id") for a in value["annotations"]
    ]:
        entry[key] = {5: "five"}.get(entry[key], entry[key])
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(value))
    other = read_coco(path, folder / "images/val")
    found = [(ids.get(image_id, image_id), outputs) for image_id, outputs in ground_truth(dataset)]
    assert coco_ap(path, found, other.category_ids) == coco_ap(
        dataset.annotation_file, ground_truth(dataset), dataset.category_ids
    )


def test_masks_need_segmentations(folder: Path, dataset: CocoDataset, tmp_path: Path) -> None:
    value = json.loads(dataset.annotation_file.read_text())
    value["annotations"][0]["segmentation"] = []
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(value))
    with pytest.raises(MissingAnnotationsError, match="no segmentation to evaluate masks; got: 1 of"):
        coco_ap(path, ground_truth(dataset), dataset.category_ids)
    assert coco_ap(path, ground_truth(dataset), dataset.category_ids, ["bbox"])["bbox/AP"] == pytest.approx(1)


def test_a_model_of_more_classes_than_the_data(dataset: CocoDataset) -> None:
    with pytest.raises(MissingAnnotationsError, match=r"got: class index \d with 1 categories"):
        coco_ap(dataset.annotation_file, ground_truth(dataset), dataset.category_ids[:1])


@pytest.mark.parametrize(("found", "ids"), [([empty(77)], (1, 2)), ([], (1, 66))])
def test_ids_of_another_data_set(dataset: CocoDataset, found: list[Prediction], ids: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"got: \[(77|66)\]"):
        coco_ap(dataset.annotation_file, found, ids)


SIGMAS = [0.05] * 5


@pytest.fixture(scope="module")
def keypoints(folder: Path) -> CocoDataset:
    return load_coco(folder, "val", kind="keypoints")


def keypoint_ap(dataset: CocoDataset, found: Iterator[Prediction], sigmas: list[float]) -> dict[str, float]:
    return coco_ap(dataset.annotation_file, found, dataset.category_ids, ("keypoints",), sigmas)


def test_ground_truth_keypoints_have_ap_one(keypoints: CocoDataset) -> None:
    metrics = keypoint_ap(keypoints, ground_truth_keypoints(keypoints), SIGMAS)
    assert {f"keypoints/{name}" for name in ("AP", "AP50", "AP75")} <= set(metrics)
    assert all(value == pytest.approx(1.0) for value in metrics.values())


def test_sigmas_set_the_tolerance_of_keypoints(keypoints: CocoDataset) -> None:
    near, far, tolerated = (
        keypoint_ap(keypoints, ground_truth_keypoints(keypoints, shift), [sigma] * 5)["keypoints/AP"]
        for shift, sigma in ((0.5, 0.05), (5.0, 0.05), (5.0, 0.5))
    )
    assert near > 0.9
    assert far < 0.4
    assert tolerated > 0.9


def test_one_sigma_for_each_keypoint(keypoints: CocoDataset) -> None:
    for sigmas, number in (([], 17), ([0.05], 1)):
        with pytest.raises(ConfigError, match=f"got: {number} sigmas, 5 keypoints"):
            keypoint_ap(keypoints, ground_truth_keypoints(keypoints), sigmas)


def test_annotations_without_keypoints(dataset: CocoDataset, keypoints: CocoDataset) -> None:
    with pytest.raises(DataError, match="no keypoints"):
        keypoint_ap(dataset, ground_truth_keypoints(keypoints), SIGMAS)
