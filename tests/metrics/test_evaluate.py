"""Recall of proposals and mean IoU of semantic segmentation."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detexport.data.coco import CocoDataset, CocoRecord, load_coco, read_image
from detexport.data.synthetic import SyntheticShapes
from detexport.errors import DataError
from detexport.metrics.evaluate import evaluate_predictions


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    path = tmp_path_factory.mktemp("data") / "shapes"
    SyntheticShapes(train_images=0, val_images=4).write(path)
    return load_coco(path, "val")


def proposals(dataset: CocoDataset, left_out: int) -> Iterator[tuple[CocoRecord, dict[str, np.ndarray]]]:
    for record in dataset.images:
        boxes = np.array([a["bbox"] for a in record.annotations], np.float32).reshape(-1, 4)[left_out:]
        boxes[:, 2:] += boxes[:, :2]
        logits = np.linspace(3, -3, len(boxes), dtype=np.float32)
        yield record, {"proposal_boxes": boxes, "objectness_logits": logits}


def test_complete_proposals_have_recall_one(dataset: CocoDataset) -> None:
    metrics = evaluate_predictions(proposals(dataset, 0), dataset).metrics
    assert metrics["proposals/AR100"] == pytest.approx(1.0)
    assert metrics["proposals/AR1"] < 1


def test_recall_is_the_fraction_of_objects_proposed(dataset: CocoDataset) -> None:
    total = sum(len(record.annotations) for record in dataset.images)
    missed = sum(bool(record.annotations) for record in dataset.images)
    metrics = evaluate_predictions(proposals(dataset, 1), dataset).metrics
    assert metrics["proposals/AR100"] == pytest.approx((total - missed) / total)


def pixels(dataset: CocoDataset, *, shifted: int) -> Iterator[tuple[CocoRecord, dict[str, np.ndarray]]]:
    for record in dataset.images:
        assert record.sem_seg_file_name is not None
        labels = (read_image(record.sem_seg_file_name)[0].astype(np.int64) + shifted) % 8
        yield record, {"sem_seg": (np.arange(8)[:, None, None] == labels).astype(np.float32)}


def test_ground_truth_pixels_have_iou_one(dataset: CocoDataset) -> None:
    assert evaluate_predictions(pixels(dataset, shifted=0), dataset).metrics == {"sem_seg/mIoU": 1.0}


def test_wrong_pixels_lower_the_iou(dataset: CocoDataset) -> None:
    assert evaluate_predictions(pixels(dataset, shifted=1), dataset).metrics["sem_seg/mIoU"] < 0.2


def test_data_without_semantic_segmentation(dataset: CocoDataset, tmp_path: Path) -> None:
    record, outputs = next(pixels(dataset, shifted=0))
    other = CocoRecord(
        record.image_id, record.file_name, record.height, record.width, (), tmp_path / "no.png"
    )
    with pytest.raises(DataError, match="has no semantic segmentation"):
        evaluate_predictions([(other, outputs)], dataset)


def test_semantic_segmentation_of_another_size(dataset: CocoDataset, tmp_path: Path) -> None:
    record, outputs = next(pixels(dataset, shifted=0))
    Image.new("L", (5, 4)).save(tmp_path / "small.png")
    other = replace(record, sem_seg_file_name=tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png has another size"):
        evaluate_predictions([(other, outputs)], dataset)
