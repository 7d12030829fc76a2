"""Recall of proposals and mean IoU of semantic segmentation."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detexport.data.coco import CocoDataset, CocoRecord, load_coco, read_image, read_sem_seg
from detexport.errors import DataError
from detexport.metrics.evaluate import evaluate_predictions
from detexport.metrics.panoptic_quality import PanopticQuality
from synthetic_shapes import synthetic_shapes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    path = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=4).write(path)
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
        yield record, one_hot(labels)


def test_ground_truth_pixels_have_iou_one(dataset: CocoDataset) -> None:
    assert evaluate_predictions(pixels(dataset, shifted=0), dataset).metrics == {"sem_seg/mIoU": 1.0}


def test_wrong_pixels_lower_the_iou(dataset: CocoDataset) -> None:
    assert evaluate_predictions(pixels(dataset, shifted=1), dataset).metrics["sem_seg/mIoU"] < 0.2


def test_iou_by_class_has_the_headline_as_its_mean(dataset: CocoDataset) -> None:
    evaluation = evaluate_predictions(pixels(dataset, shifted=1), dataset)
    by_class = evaluation.tallies["sem_seg/mIoU"].by_class()
    assert evaluation.tallies["sem_seg/mIoU"].annotated() is None
    assert np.nanmean(by_class) == pytest.approx(evaluation.metrics["sem_seg/mIoU"])
    record = dataset.images[0]
    labels = read_sem_seg(record)
    *others, lost = np.unique(labels).tolist()
    alone = evaluate_predictions([(record, one_hot(np.where(labels == lost, 0, labels)))], dataset)
    values = alone.tallies["sem_seg/mIoU"].by_class()
    assert values[lost] == 0.0
    assert 0 < values[0] < 1, "its pixels are of class 0 now"
    assert [values[label] for label in others if label] == [1.0] * (len(others) - 1)


def one_hot(labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"sem_seg": (np.arange(8)[:, None, None] == labels).astype(np.float32)}


def panoptic(dataset: CocoDataset, category: int | str | None) -> Iterator[tuple[CocoRecord, dict[str, Any]]]:
    """The annotated segments, without those of a category."""
    quality = PanopticQuality(dataset.panoptic_file, dataset.category_ids)
    for record in dataset.images:
        segments, categories = quality.annotated_segments(record.image_id, (record.height, record.width))
        found = []
        for id, of in categories.items():
            index = quality.categories.index(of)
            stuff = index - len(dataset.category_ids)
            entry = {"id": id, "isthing": stuff < 0, "category_id": index if stuff < 0 else stuff + 1}
            found += [entry] if of != category else []
        kept = np.isin(segments, [one["id"] for one in found])
        yield record, {"panoptic_seg": np.where(kept, segments, 0), "segments_info": found}


def test_panoptic_quality_by_class_has_the_headline_as_its_mean(dataset: CocoDataset) -> None:
    lost = dataset.category_ids[1]
    evaluation = evaluate_predictions(panoptic(dataset, lost), dataset)
    tallies = evaluation.tallies["panoptic/PQ"]
    by_class, annotated = tallies.by_class(), tallies.annotated()
    assert np.nanmean(by_class) == pytest.approx(evaluation.metrics["panoptic/PQ"])
    assert by_class[1] == 0.0
    assert set(np.delete(by_class, 1)) == {1.0}
    assert annotated is not None
    things = [one for record in dataset.images for one in record.annotations]
    assert annotated[1] == sum(one["category_id"] == 1 for one in things)


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
