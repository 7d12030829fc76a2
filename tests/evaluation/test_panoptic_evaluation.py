"""Panoptic quality of registered data sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detexport.data import DatasetCatalog, MetadataCatalog
from detexport.data.coco import read_segment_map
from detexport.data.datasets import register_coco_panoptic
from detexport.evaluation import COCOPanopticEvaluator
from detexport.system.files import read_json
from synthetic_shapes import synthetic_shapes

NAME = "evaluated_panoptic"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=3).write(folder)
    metadata = {
        "thing_dataset_id_to_contiguous_id": {category: category - 1 for category in range(1, 6)},
        "stuff_dataset_id_to_contiguous_id": {category: category - 1 for category in range(6, 9)},
    }
    register_coco_panoptic(
        NAME,
        metadata,
        folder / "images/val",
        folder / "panoptic_val",
        folder / "annotations/panoptic_val.json",
    )
    yield folder
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def annotated(folder: Path) -> Iterator[tuple[Any, np.ndarray, list[dict[str, Any]]]]:
    """The annotated segments of each image as predictions, with contiguous categories."""
    for entry in read_json(folder / "annotations/panoptic_val.json")["annotations"]:
        ids = read_segment_map(folder / "panoptic_val" / entry["file_name"])
        segments = [
            {"id": one["id"], "isthing": one["category_id"] <= 5, "category_id": one["category_id"] - 1}
            for one in entry["segments_info"]
        ]
        yield entry["image_id"], ids.astype(np.int64), segments


def test_the_annotations_are_perfect(folder: Path, tmp_path: Path) -> None:
    evaluator = COCOPanopticEvaluator(NAME, output_dir=tmp_path)
    for image_id, ids, segments in annotated(folder):
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (torch.from_numpy(ids), segments)}])
    metrics = evaluator.evaluate()["panoptic_seg"]
    assert {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"} <= set(metrics)
    assert all(value == pytest.approx(100) for value in metrics.values())
    assert read_json(tmp_path / "panoptic_evaluation.json") == metrics


def test_segments_by_the_ids_of_their_pixels(folder: Path) -> None:
    """Without ``segments_info`` an id is category * label_divisor + number."""
    evaluator = COCOPanopticEvaluator(NAME)
    for image_id, ids, segments in annotated(folder):
        coded = np.full_like(ids, -1)
        for number, segment in enumerate(segments):
            coded[ids == segment["id"]] = segment["category_id"] * 1000 + number
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (torch.from_numpy(coded), None)}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_a_missing_thing_lowers_the_quality_of_things(folder: Path) -> None:
    evaluator = COCOPanopticEvaluator(NAME)
    for image_id, ids, segments in annotated(folder):
        kept = [one for one in segments if not one["isthing"]]
        shown = np.where(np.isin(ids, [one["id"] for one in kept]), ids, 0)
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (torch.from_numpy(shown), kept)}])
    metrics = evaluator.evaluate()["panoptic_seg"]
    assert metrics["PQ_th"] == 0
    assert metrics["PQ_st"] == pytest.approx(100)
