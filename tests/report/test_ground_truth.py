"""The annotations of an image as a model's outputs: objects, segments and classes of pixels."""

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detexport.data.coco import CocoDataset, CocoRecord, load_coco, read_sem_seg
from detexport.metrics.panoptic_quality import PanopticQuality
from detexport.predictions.drawing import Overlay, draw
from detexport.reference.store import NO_IMAGE, SampleMeta
from detexport.report.ground_truth import GroundTruth, annotated_objects, annotated_pixels, annotated_segments
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_contract, write_tiny_onnx

BOX = [10.0, 20.0, 30.0, 40.0]
FIELDS = ("pred_boxes", "scores", "pred_classes", "pred_masks", "pred_keypoints")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=3).write(path)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> CocoDataset:
    return load_coco(folder, "val")


def meta_of(record: CocoRecord) -> SampleMeta:
    size = (record.height, record.width)
    return SampleMeta("0001-1x", record.image_id, record.file_name.name, size, size, 1.0)


def record_of(*annotations: dict[str, Any]) -> CocoRecord:
    return CocoRecord(1, Path("1.png"), 100, 80, annotations)


def test_objects_are_scaled_to_the_output() -> None:
    polygon = [[10.0, 20.0, 40.0, 20.0, 40.0, 60.0, 10.0, 60.0]]
    whole = {"bbox": BOX, "category_id": 2, "segmentation": polygon, "keypoints": [12, 24, 2, 0, 0, 0]}
    crowd = {"bbox": BOX, "category_id": 0, "iscrowd": 1}
    record = record_of(whole, crowd)
    truth = annotated_objects(record, (50, 160), FIELDS)
    assert truth["pred_boxes"].tolist() == [[20, 10, 80, 30]]
    assert truth["pred_classes"].tolist() == [2]
    assert truth["pred_masks"].shape == (1, 50, 160)
    assert truth["pred_masks"].sum() == 60 * 20
    labelled, unlabelled = truth["pred_keypoints"][0].tolist()
    assert labelled == [24, 12, 2]
    assert np.isnan(unlabelled).all()
    assert annotated_objects(record, (100, 80), FIELDS)["pred_masks"].sum() == 30 * 40


def test_run_lengths_are_masks_too() -> None:
    plain = {"bbox": BOX, "category_id": 0, "segmentation": {"size": [100, 80], "counts": [5, 3, 7992]}}
    assert annotated_objects(record_of(plain), (100, 80), FIELDS)["pred_masks"].sum() == 3


@pytest.mark.parametrize("annotations", [(), ({"bbox": BOX, "category_id": 0},)])
def test_what_is_not_annotated_is_empty(annotations: tuple[dict[str, Any], ...]) -> None:
    """Images without objects, and objects without a mask, are drawn."""
    truth = annotated_objects(record_of(*annotations), (100, 80), FIELDS)
    assert truth["pred_boxes"].shape == (len(annotations), 4)
    assert truth["pred_masks"].shape == (len(annotations), 100, 80)
    assert not truth["pred_masks"].any()
    assert truth["pred_keypoints"].shape == (len(annotations), 0, 3)
    assert set(annotated_objects(record_of(), (100, 80), FIELDS[:3])) == set(FIELDS[:3])


def drawn_pixels(overlay: Overlay) -> np.ndarray:
    """Return (H, W) bool, the pixels that a drawing covers."""
    picture = Image.open(io.BytesIO(base64.b64decode(overlay.regions.partition(",")[2])))
    alpha: np.ndarray = np.asarray(picture.convert("RGBA"))[..., 3] > 0
    return alpha


def test_the_class_of_each_pixel_is_drawn_and_unlabelled_ones_are_not(
    dataset: CocoDataset, tmp_path: Path
) -> None:
    record = dataset.images[0]
    labels = read_sem_seg(record)
    labels[:9] = 255
    path = tmp_path / "labels.png"
    Image.fromarray(labels.astype(np.uint8)).save(path)
    record = CocoRecord(1, record.file_name, record.height, record.width, (), path)
    truth = annotated_pixels(record, labels.shape)
    overlay = draw(truth, tiny_contract(), labels.shape, min_score=0.5)
    assert (drawn_pixels(overlay) == (labels != 255)).all()
    present = [label for label in np.unique(labels).tolist() if label != 255]
    assert [segment["category_id"] for segment in truth["segments_info"]] == present
    doubled = annotated_pixels(record, (2 * record.height, 2 * record.width))["panoptic_seg"]
    assert (doubled[::2, ::2] == truth["panoptic_seg"]).all()


def test_segments_have_the_models_classes(dataset: CocoDataset) -> None:
    quality = PanopticQuality(dataset.panoptic_file, dataset.category_ids)
    for record in dataset.images:
        truth = annotated_segments(quality, record, (record.height, record.width))
        quality.add(record.image_id, truth["panoptic_seg"], truth["segments_info"])
        things = [one["category_id"] for one in truth["segments_info"] if one["isthing"]]
        assert sorted(things) == sorted(one["category_id"] for one in record.annotations)
    assert quality.result()["panoptic/PQ"] == pytest.approx(1.0), "as if a model had predicted them"


def read(folder: Path | None, meta: SampleMeta, *fields: str) -> tuple[set[str], str, list[str]]:
    annotations = GroundTruth(folder, None, tiny_contract())
    truth, note = annotations.of(meta, dict.fromkeys(fields))
    return set(truth or ()), note, list(annotations.faults)


def test_the_kinds_of_the_eager_models_outputs_are_read(folder: Path, dataset: CocoDataset) -> None:
    record = dataset.images[0]
    objects = f"{len(record.annotations)} annotated object"
    found, note, faults = read(folder, meta_of(record), "scores")
    assert {"pred_boxes", "pred_masks"} <= found
    assert note.startswith(objects)
    assert faults == []
    found, note, _ = read(folder, meta_of(record), "scores", "panoptic_seg", "sem_seg")
    assert {"pred_boxes", "panoptic_seg"} <= found
    assert note.startswith(objects)
    assert "segment" in note
    found, note, _ = read(folder, meta_of(record), "sem_seg")
    assert found == {"panoptic_seg", "segments_info"}
    assert note == "the annotated class of each pixel"
    made = SampleMeta("mosaic", NO_IMAGE, "", (9, 9), (9, 9), 1.0, "batch")
    assert read(folder, made, "scores") == (set(), "none: this input was made, not annotated", [])


@pytest.mark.parametrize("kind", ["keypoints", "proposals", "panoptic"])
def test_the_annotations_are_drawn_whatever_the_model_returns(
    kind: str, folder: Path, dataset: CocoDataset, tmp_path: Path
) -> None:
    contract = write_tiny_onnx(tmp_path / "onnx", kind).contract
    outputs = dict.fromkeys((*contract.output_names, *contract.results))
    meta = meta_of(dataset.images[0])
    truth, _ = GroundTruth(folder, None, contract).of(meta, outputs)
    assert truth is not None
    overlay = draw(truth, contract, meta.output_size, min_score=0.5)
    assert len(overlay.labels) == len(dataset.images[0].annotations)
    assert bool(overlay.points) == (kind == "keypoints")
    assert bool(overlay.regions) == (kind == "panoptic")


def spoiled(folder: Path, copy: Path) -> Iterator[tuple[Path | None, str, str]]:
    """Yield folders with a fault, an output of the model, and what the reason names."""
    yield None, "scores", "no data set"
    yield copy / "none", "scores", "no folder"
    yield folder, "scores", "lacks images"  # of another id
    for name, output in (("instances_val", "scores"), ("panoptic_val", "panoptic_seg")):
        yield copy / name, output, f"{name}.json"


def test_a_fault_is_named_once(folder: Path, dataset: CocoDataset, tmp_path: Path) -> None:
    for name in ("instances_val", "panoptic_val"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "annotations" / f"{name}.json").write_text("not JSON")
    record = dataset.images[0]
    for data, output, reason in spoiled(folder, tmp_path):
        annotations = GroundTruth(data, None, tiny_contract())
        meta = meta_of(record)
        if reason == "lacks images":
            meta = SampleMeta("0099-1x", 99, "99.png", meta.image_size, meta.output_size, 1.0)
        for _ in range(2):
            truth, note = annotations.of(meta, {output: None})
            assert truth is None
            assert note == "not readable: see the reason above"
        (fault,) = annotations.faults
        assert reason in fault
