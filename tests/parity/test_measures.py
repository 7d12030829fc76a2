"""The table of errors: their outputs, and the limits that a report shows."""

import pytest
from reports import accuracy_of, measured, report_of

from detexport.outputs import FIELDS
from detexport.parity.measures import MEASURES, limited_errors, unlimited_errors
from detexport.parity.measures import measured as errors_of
from detexport.parity.verdict import ParityReport
from tiny_artifacts import KINDS, tiny_contract
from tolerances import LIMITS


@pytest.mark.parametrize("name", MEASURES)
def test_an_error_is_of_known_outputs_and_its_limit_of_known_limits(name: str) -> None:
    measure = MEASURES[name]
    assert set(measure.fields) <= FIELDS.keys()
    assert name.endswith("_px") == (measure.unit == "px")
    if measure.limit is not None:
        assert "{" not in measure.limit.format(**LIMITS)


def test_every_output_has_an_error_except_the_classes() -> None:
    """Detections are paired by class, so that another class is a missing detection."""
    named = {name for measure in MEASURES.values() for name in measure.fields}
    assert named == FIELDS.keys() - {"pred_classes"}


def test_the_errors_of_outputs_are_in_the_tables_order() -> None:
    assert errors_of(["scores", "pred_boxes", "segments_info"]) == ["box_error_px", "score_error"]
    assert errors_of(["sem_seg"]) == ["sem_seg_error", "sem_seg_class_ratio"]
    assert errors_of([]) == []


def limits(report: ParityReport) -> dict[str, tuple[float | None, str]]:
    return {measure.words: (largest, limit) for measure, largest, limit in limited_errors(report.to_json())}


def test_the_largest_error_comes_with_its_limit() -> None:
    report = report_of(measured(errors={"box_error_px": 0.5, "mask_iou_error": 0.1}), measured())
    assert limits(report) == {
        "boxes": (0.5, "0.01 px x scale"),
        "scores": (0.0, "0.0002"),
        "masks": (None, "9 px or 0.5% of the area"),
    }


def test_the_limit_is_the_one_that_the_largest_error_was_compared_with() -> None:
    """Of the input with the largest error, not the table's."""
    noisy = measured(errors={"box_error_px": 0.07, "score_error": 1e-5}, widened={"box_px": 0.08})
    quiet = measured(errors={"box_error_px": 0.005, "score_error": 1e-4})
    found = limits(report_of(quiet, noisy))
    assert found["boxes"][1] == "0.08 px x scale, widened from 0.01 px x scale by the model's own noise"
    assert found["scores"][1] == "0.0002"
    assert limits(report_of(quiet))["boxes"][1] == "0.01 px x scale"


def test_deltas_of_metrics_come_last_and_are_all_that_reduced_precision_has() -> None:
    report = report_of(measured(), accuracy=accuracy_of(0.5, 0.25, budget=0.02))
    assert [*limits(report)][-1] == "delta bbox/AP vs eager"
    reduced = report.without_limits()
    assert limits(reduced) == {"delta bbox/AP vs eager": (-0.25, "0.02")}
    assert limits(report_of(measured()).without_limits()) == {}


def test_errors_without_a_limit_are_those_that_were_measured() -> None:
    errors = {"mask_iou_error": 0.1, "mask_error_px": 2.0, "mask_error_ratio": 0.25}
    report = report_of(measured(errors=errors))
    found = {measure.words: error for measure, error in unlimited_errors(report.to_json())}
    assert found == {"masks, of their area": 0.25, "masks, 1 - IoU": 0.1}
    reduced = {measure.words for measure, _ in unlimited_errors(report.without_limits().to_json())}
    assert reduced == {"masks", *found}


def test_a_ratio_over_all_samples_is_shown_with_the_errors() -> None:
    contract = tiny_contract(**KINDS["keypoints"])
    report = report_of(measured(keypoints=8, keypoint_flips=2), contract=contract)
    assert limits(report)["keypoints, other cell"] == (0.25, "0.02 of all")
