"""The outputs of one image: what is valid, and packing for a file."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detexport.outputs import FIELDS, Outputs, count_rows, field_faults, pack, unpack
from detexport.processing.postprocess import postprocess
from tiny_artifacts import tiny_image
from tiny_models import CONTRACTS, raw_outputs

SIZE = (60, 100)


def outputs(kind: str = "everything", brightness: tuple[int, int, int] = (200, 90, 140)) -> Outputs:
    contract, image = CONTRACTS[kind], tiny_image(30, 50, brightness)
    return postprocess(raw_outputs(contract, image), (30, 50), SIZE, contract)


@pytest.mark.parametrize("kind", CONTRACTS)
@pytest.mark.parametrize("brightness", [(200, 90, 140), (100, 10, 10), (20, 20, 20)])
def test_three_one_and_no_detections_are_valid(kind: str, brightness: tuple[int, int, int]) -> None:
    assert field_faults(outputs(kind, brightness), SIZE) == field_faults(outputs(kind, brightness)) == []


def test_all_fields_are_tried() -> None:
    assert {name for kind in CONTRACTS for name in outputs(kind)} == {*FIELDS, "segments_info"}


def change(name: str, value: Callable[[Any], Any]) -> Callable[[Outputs], Outputs]:
    return lambda given: {**given, name: value(given[name])}


def without(*names: str) -> Callable[[Outputs], Outputs]:
    return lambda given: {name: value for name, value in given.items() if name not in names}


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda given: {}, "fields missing: [], unknown: [], given: []"),
        (without("scores"), "fields missing: ['scores']"),
        (without("segments_info"), "fields missing: ['segments_info']"),
        (without("pred_masks"), "fields missing: ['pred_masks']"),
        (without("pred_boxes", "scores", "pred_classes"), "fields missing: ['scores']"),
        (lambda given: {**given, "logits": np.zeros(3)}, "unknown: ['logits']"),
        (change("scores", lambda value: value.astype(np.float64)), "scores: dtype float64, expected float32"),
        (change("pred_classes", lambda value: value[:1]), "pred_classes: shape (1,), expected (3,)"),
        (change("pred_boxes", lambda value: value[:, :3]), "pred_boxes: shape (3, 3), expected (3, 4)"),
        (
            change("pred_masks", lambda value: value[:, :9]),
            "pred_masks: shape (3, 9, 100), expected (3, 60, 100)",
        ),
        (change("sem_seg", lambda value: value[0]), "sem_seg: shape (60, 100), expected ('C', 60, 100)"),
        (
            change("pred_keypoints", lambda value: value * np.inf),
            "pred_keypoints: 18 values are NaN or infinite",
        ),
        (change("scores", lambda value: value[::-1]), "scores: do not descend"),
        (change("panoptic_seg", lambda value: value * 0), "segments_info: ids "),
        (change("segments_info", lambda value: [*value, {"id": 77, "area": 5}]), "segments_info: ids "),
        (
            change("segments_info", lambda value: [{**one, "area": 1} for one in value]),
            "segments_info: area 1 of",
        ),
    ],
)
def test_a_fault_is_named(spoil: Callable[[Outputs], Outputs], fault: str) -> None:
    (first, *_) = field_faults(spoil(outputs()), SIZE)
    assert fault in first


def test_every_faulty_array_is_named_at_once() -> None:
    given = outputs()
    given |= {"scores": given["scores"] * np.nan, "pred_classes": given["pred_classes"].astype(np.int32)}
    assert [fault.split(":")[0] for fault in field_faults(given, SIZE)] == ["scores", "pred_classes"]


def test_a_segment_that_others_cover_may_be_listed_with_area_0() -> None:
    given = outputs()
    given["segments_info"] = [*given["segments_info"], {"id": 77, "area": 0}]
    assert field_faults(given, SIZE) == []


def test_equal_scores_descend() -> None:
    given = outputs()
    given["scores"] = np.full(3, 0.5, np.float32)
    assert field_faults(given, SIZE) == []


def test_rows_are_detections_or_proposals() -> None:
    assert count_rows(outputs()) == count_rows(outputs("proposals")) == 3
    assert count_rows(outputs(brightness=(20, 20, 20))) == 0
    assert count_rows({"sem_seg": np.zeros((3, 4, 4))}) == 0
    assert count_rows({"scores": np.float32(0.5)}) == 0


@pytest.mark.parametrize("kind", CONTRACTS)
@pytest.mark.parametrize("brightness", [(200, 90, 140), (20, 20, 20)])
def test_packed_outputs_come_back(kind: str, brightness: tuple[int, int, int]) -> None:
    given = outputs(kind, brightness)
    found = unpack({**pack(given), "image": np.zeros(3)})
    assert found.keys() == given.keys()
    assert found.pop("segments_info", None) == given.pop("segments_info", None)
    for name, value in given.items():
        np.testing.assert_array_equal(found[name], value)
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)


def test_packed_outputs_are_arrays_without_python_objects() -> None:
    packed = pack(outputs())
    assert not any(value.dtype.hasobject for value in packed.values())
    assert packed["masks_packed"].nbytes == -(-3 * 60 * 100 // 8)
    assert json.loads(str(packed["segments_info"])) == outputs()["segments_info"]


@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 1, 1), (0, 5, 7), (3, 7, 5)])
def test_masks_of_any_number_of_pixels_come_back(shape: tuple[int, ...]) -> None:
    masks = np.random.default_rng(0).integers(0, 2, shape).astype(bool)
    found = unpack(pack({"pred_masks": masks}))["pred_masks"]
    assert found.dtype == bool
    np.testing.assert_array_equal(found, masks)
