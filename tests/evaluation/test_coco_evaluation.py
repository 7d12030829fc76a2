"""COCO's metrics of registered data sets, compared with the project's own numbers of the same outputs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from annotated import ground_truth, ground_truth_keypoints
from detexport.data import DatasetCatalog, MetadataCatalog, register_coco_instances
from detexport.data.coco import CocoDataset, load_coco
from detexport.errors import ConfigError
from detexport.evaluation import COCOEvaluator
from detexport.metrics.average_precision import coco_ap
from detexport.structures import Boxes, Instances
from synthetic_shapes import synthetic_shapes

NAME = "evaluated_shapes"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CocoDataset]:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=6).write(folder)
    dataset = load_coco(folder, "val")
    register_coco_instances(NAME, {}, dataset.annotation_file, folder / "images/val")
    DatasetCatalog.get(NAME)  # reads the class names
    yield dataset
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def outputs(dataset: CocoDataset, shift_px: float = 3.0) -> list[tuple[Any, dict[str, np.ndarray]]]:
    """The annotations as detections, some shifted, some of a wrong class."""
    found = []
    for index, (image_id, fields) in enumerate(ground_truth(dataset)):
        fields["pred_boxes"] = fields["pred_boxes"] + shift_px * (index % 3)
        fields["pred_classes"] = np.where(fields["scores"] < 0.6, 0, fields["pred_classes"])
        found.append((image_id, fields))
    return found


def as_instances(fields: dict[str, np.ndarray], size: tuple[int, int]) -> Instances:
    values = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in fields.items()}
    values["pred_boxes"] = Boxes(values["pred_boxes"])
    return Instances(size, **values)


def evaluated(dataset: CocoDataset, found: list[Any], **options: Any) -> dict[str, dict[str, float]]:
    evaluator = COCOEvaluator(NAME, **options)
    size_of = {record.image_id: (record.height, record.width) for record in dataset.images}
    for image_id, fields in found:
        instances = as_instances(fields, size_of[image_id])
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def test_the_metrics_are_those_of_the_project(dataset: CocoDataset, tmp_path: Path) -> None:
    found = outputs(dataset)
    results = evaluated(dataset, found, output_dir=tmp_path)
    expected = coco_ap(dataset.annotation_file, found, dataset.category_ids)
    assert 0 < expected["bbox/AP"] < 1
    for task in ("bbox", "segm"):
        for name in ("AP", "AP50", "AP75"):
            assert results[task][name] == pytest.approx(expected[f"{task}/{name}"] * 100)
        classes = [value for name, value in results[task].items() if name.startswith("AP-")]
        assert len(classes) == len(dataset.class_names)
        assert np.nanmean(classes) == pytest.approx(results[task]["AP"])
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(written) == sum(len(fields["scores"]) for _, fields in found)


def test_the_annotations_are_perfect_and_a_task_can_be_chosen(dataset: CocoDataset) -> None:
    results = evaluated(dataset, list(ground_truth(dataset)), tasks=("segm",), distributed=False)
    assert list(results) == ["segm"]
    assert results["segm"]["AP"] == pytest.approx(100)


def test_keypoints(dataset: CocoDataset) -> None:
    folder = dataset.annotation_file.parent
    name = f"{NAME}_keypoints"
    register_coco_instances(name, {}, folder / "keypoints_val.json", folder)
    DatasetCatalog.get(name)
    try:
        evaluator = COCOEvaluator(name, kpt_oks_sigmas=[0.05] * 5)
        keypoints = load_coco(folder.parent, "val", kind="keypoints")
        for (image_id, fields), record in zip(
            ground_truth_keypoints(keypoints), keypoints.images, strict=True
        ):
            fields.pop("pred_masks")
            instances = as_instances(fields, (record.height, record.width))
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        results = evaluator.evaluate()
        assert results["keypoints"]["AP"] == pytest.approx(100)
        assert results["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_proposals_are_evaluated_by_recall(dataset: CocoDataset) -> None:
    evaluator = COCOEvaluator(NAME)
    for (image_id, fields), record in zip(ground_truth(dataset), dataset.images, strict=True):
        proposals = Instances(
            (record.height, record.width),
            proposal_boxes=Boxes(torch.from_numpy(fields["pred_boxes"])),
            objectness_logits=torch.from_numpy(fields["scores"]),
        )
        evaluator.process([{"image_id": image_id}], [{"proposals": proposals}])
    assert evaluator.evaluate()["box_proposals"]["AR@100"] == pytest.approx(100)


def test_a_data_set_without_a_coco_file_is_converted(dataset: CocoDataset) -> None:
    name = f"{NAME}_records"
    DatasetCatalog.register(name, lambda: DatasetCatalog.get(NAME))
    MetadataCatalog.get(name).set(thing_classes=list(dataset.class_names))
    try:
        evaluator = COCOEvaluator(name, tasks=("bbox",))
        for image_id, fields in ground_truth(dataset):
            evaluator.process([{"image_id": image_id}], [{"instances": as_instances(fields, (1, 1))}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_nothing_was_processed_and_options_are_checked(dataset: CocoDataset) -> None:
    assert COCOEvaluator(NAME).evaluate() == {}
    with pytest.raises(ConfigError, match="unknown tasks"):
        COCOEvaluator(NAME, tasks=("boxes",))
    with pytest.raises(ConfigError, match="100 detections"):
        COCOEvaluator(NAME, max_dets_per_image=300)


def test_results_are_loaded_by_pycocotools(dataset: CocoDataset, tmp_path: Path) -> None:
    evaluated(dataset, outputs(dataset), output_dir=tmp_path)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert all({"bbox", "segmentation"} <= row.keys() for row in written)
    loaded = COCO(dataset.annotation_file).loadRes(str(tmp_path / "coco_instances_results.json"))
    assert len(loaded.anns) == len(written)


def test_images_that_were_not_processed_count(dataset: CocoDataset) -> None:
    found = list(ground_truth(dataset))
    assert evaluated(dataset, found[:1], tasks=("bbox",))["bbox"]["AP"] < 100
