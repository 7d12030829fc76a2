"""All outputs of one image: what can be compared, and the measurement as a whole."""

import json
import re
from typing import Any

import numpy as np
import pytest
from two_sides import detections, measure, take

from detexport.parity.compare import Noise, SampleParity
from detexport.parity.compare.match_detections import OneSided
from tiny_artifacts import KINDS, tiny_contract


def test_equal_sides_pass_with_no_error_at_all() -> None:
    result = measure(detections(), detections())
    assert result.passed
    assert (result.expected, result.actual, result.paired) == (4, 4, 4)
    assert set(result.errors.values()) == {0}


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("count", [0, 1])
def test_no_detection_and_one_detection_pass(count: int, masks: bool) -> None:
    result = measure(detections(count, masks=masks), detections(count, masks=masks))
    assert result.passed
    assert result.paired == count
    assert result.errors["box_error_px"] == 0


def test_scores_that_do_not_descend_fail() -> None:
    result = measure(detections(), take(detections(), 1, 0, 2, 3))
    assert result.reasons == ("runtime, scores: do not descend",)
    assert result.errors == {}


@pytest.mark.parametrize("field", ["pred_boxes", "scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["eager model", "runtime"])
def test_a_number_that_is_not_finite_fails_and_is_named(field: str, value: float, side: str) -> None:
    faulty = detections()
    faulty[field].reshape(-1)[-1] = value
    sides = (faulty, detections()) if side == "eager model" else (detections(), faulty)
    result = measure(*sides)
    assert result.reasons == (f"{side}, {field}: 1 values are NaN or infinite",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pred_boxes": detections()["pred_boxes"].astype(np.float64)}, "pred_boxes: dtype float64"),
        ({"pred_classes": detections()["pred_classes"].astype(np.int32)}, "pred_classes: dtype int32"),
        ({"pred_boxes": np.zeros((4, 6), np.float32)}, r"pred_boxes: shape \(4, 6\), expected \(4, 4\)"),
        # Rotated boxes, where the model's are not.
        ({"pred_boxes": np.zeros((4, 5), np.float32)}, r"pred_boxes: runtime \(5,\), eager model \(4,\)"),
        ({"pred_classes": np.zeros(3, np.int64)}, r"pred_classes: shape \(3,\), expected \(4,\)"),
        ({"scores": np.float32(0.5)}, "scores"),
        ({"pred_masks": np.zeros((4, 28, 28), np.float32)}, "pred_masks: dtype float32"),
        ({"pred_masks": np.zeros((4, 28, 28), bool)}, r"pred_masks: runtime \(28, 28\)"),
        ({"logits": np.zeros(4, np.float32)}, r"unknown: \['logits'\]"),
    ],
)
def test_fields_that_cannot_be_compared_fail_clearly(changes: dict[str, np.ndarray], reason: str) -> None:
    result = measure(detections(), {**detections(), **changes})
    assert not result.passed
    assert re.search(reason, " ".join(result.reasons)), result.reasons


def test_a_field_on_one_side_only_fails() -> None:
    assert not measure(detections(), detections(masks=False)).passed
    assert not measure(detections(masks=False), detections()).passed
    without_scores = {name: value for name, value in detections().items() if name != "scores"}
    assert "scores" in measure(detections(), without_scores).reasons[0]


def test_what_could_not_be_compared_has_counts_and_no_error() -> None:
    result = measure(detections(), detections(3, masks=False))
    assert (result.expected, result.actual, result.paired) == (4, 3, 0)
    assert (result.errors, result.compared, result.numerics, result.matching) == ({}, False, (), ())


@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
@pytest.mark.parametrize("differs", [False, True])
def test_pixels_are_compared_without_detections(kind: str, differs: bool) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    given = {**detections(0, masks=False), "sem_seg": logits} if kind == "panoptic" else {"sem_seg": logits}
    other = {**given, "sem_seg": logits + np.float32(differs)}
    result = measure(given, other, contract=tiny_contract(**KINDS[kind]))
    assert result.passed is not differs
    assert result.errors["sem_seg_error"] == pytest.approx(float(differs))


def test_every_kind_of_fault_is_a_reason_in_its_order() -> None:
    expected, actual = detections(), take(detections(), 0, 1, 2)
    actual["pred_boxes"] = actual["pred_boxes"] + np.float32([1, 0, 1, 0])
    result = measure(expected, actual, contract=tiny_contract(max_detections=2))
    assert [len(reasons) > 0 for reasons in (result.broken, result.numerics, result.matching)] == [True] * 3
    assert result.reasons == (*result.broken, *result.numerics, *result.matching)
    assert not result.passed


def one_sided(*, undetermined: bool) -> OneSided:
    return OneSided(0, 1, 0.9, (0.0, 0.0, 1.0, 1.0), "a tie", 0.0, excused=True, undetermined=undetermined)


def test_undetermined_detections_are_counted_by_side() -> None:
    open_one, rounded_one = one_sided(undetermined=True), one_sided(undetermined=False)
    result = SampleParity(3, 2, missing=(open_one, rounded_one), extra=(open_one, open_one))
    assert result.undetermined == (1, 2)


@pytest.mark.parametrize(
    ("changes", "determined"),
    [
        ({"errors": {"box_error_px": 0.0}}, 2),
        ({"errors": {"box_error_px": 0.0}, "noise_dominated": ("mask_px",)}, 2),
        ({"errors": {"box_error_px": 0.0}, "noise_dominated": ("score",)}, 0),
        ({"errors": {"box_error_px": 0.0}, "noise_dominated": ("score",), "agreeing": 1}, 0),
        ({"errors": {"box_error_px": 0.0}, "noise_dominated": ("box_px",), "agreeing": 2}, 2),
        ({"errors": {"sem_seg_error": 0.0}}, 1),
        ({"errors": {"sem_seg_error": 0.0}, "noise_dominated": ("sem_seg",)}, 0),
        ({"errors": {}, "compared": False}, 0),
    ],
)
def test_what_is_determined_is_what_noise_does_not_decide(changes: dict[str, Any], determined: int) -> None:
    assert SampleParity(2, 2, paired=2, **{"compared": True, **changes}).determined == determined


@pytest.mark.parametrize(("shift", "agreeing"), [(0.09, 2), (0.11, 0)])
def test_pairs_agree_within_ten_times_the_tolerance_whatever_the_noise(shift: float, agreeing: int) -> None:
    expected = detections(2, masks=False)
    actual = {**expected, "pred_boxes": expected["pred_boxes"] + np.float32(shift)}
    noise = Noise({"box_px": 1.0, "box_floor_px": 1.0})
    result = measure(expected, actual, noise=noise)
    assert result.passed, result.reasons
    assert (result.paired, result.agreeing) == (2, agreeing)


def test_limits_that_noise_widened_are_named() -> None:
    noise = Noise({"score": 1e-3, "box_px": 1e-6}, counts=(4, 4))
    actual = detections()
    actual["scores"][0] -= np.float32(3e-3)
    assert not measure(detections(), actual).passed
    result = measure(detections(), actual, noise=noise)
    assert result.passed
    assert result.widened == {"score": pytest.approx(4e-3)}
    assert measure(detections(), detections()).widened == {}


def test_the_measurement_is_plain_json() -> None:
    result = measure(detections(), take(detections(), 0, 1, 2))
    value = json.loads(json.dumps(result.to_json()))
    assert value["passed"] is False
    assert value["reasons"] == list(result.reasons)
    assert value["missing"][0]["score"] == pytest.approx(0.6)
    assert (value["expected"], value["actual"], value["paired"]) == (4, 3, 3)
