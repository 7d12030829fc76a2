"""The four verdicts on a job, of given measurements: what each reports, and what is written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import accuracy_of, measured, one_sided, report_of

from detexport.errors import DataError
from detexport.parity.accuracy import Accuracy
from detexport.parity.compare import SampleParity
from detexport.parity.noise_floor import Limit
from detexport.parity.verdict import MOST_UNDETERMINED, ParityReport, Verdict, read_drawn
from detexport.processing.postprocess import postprocess
from detexport.reference.input_coverage import InputCoverage
from tiny_artifacts import KINDS, tiny_contract, tiny_image
from tiny_models import CONTRACTS, raw_outputs
from tolerances import TOLERANCE

CONTRACT = CONTRACTS["everything"]


def failed(report: ParityReport) -> list[str]:
    return [name for name, verdict in report.verdicts.items() if not verdict.passed]


def test_a_verdict_passes_without_a_reason_also_if_nothing_was_evaluated() -> None:
    assert Verdict("Is it?", evaluated=False).passed
    assert Verdict("Is it?", evaluated=True, reasons=("no",)).to_json() == {
        "passed": False,
        "question": "Is it?",
        "evaluated": True,
        "reasons": ("no",),
        "note": "",
    }


@pytest.mark.parametrize(
    ("changes", "verdict"), [({"broken": ("x",)}, "contract"), ({"numerics": ("x",)}, "numerics")]
)
def test_each_fault_of_a_sample_is_reported_by_one_verdict(changes: dict[str, Any], verdict: str) -> None:
    report = report_of(measured(), measured(**changes))
    assert not report.passed
    assert failed(report) == [verdict]
    assert report.reasons == ("b: x",)


def test_equal_reasons_of_several_inputs_are_one() -> None:
    report = report_of(*[measured(matching=("lost",))] * 3, measured(matching=("invented", "lost")))
    assert report.verdicts["matching"].reasons == ("a and 3 more: lost", "d: invented")


def test_a_fault_of_the_whole_artifact_breaks_the_contract() -> None:
    report = report_of(faults=("cannot be opened",))
    assert failed(report) == ["contract"]
    assert report.reasons == ("cannot be opened",)


def test_inputs_outside_the_declared_support_are_noted() -> None:
    report = report_of(measured(), unsupported_inputs={"z": "batch size 1"})
    assert report.passed
    assert report.verdicts["contract"].note == "1 inputs outside the declared support"
    assert report.to_json()["unsupported_inputs"] == {"z": "batch size 1"}


def test_a_model_that_detects_nothing_compares_nothing() -> None:
    assert report_of(measured(0), measured(0)).lacks_detections
    assert not report_of(measured(0), measured(1)).lacks_detections
    assert not report_of(measured(0), contract=tiny_contract(**KINDS["semantic"])).lacks_detections


def test_keypoints_elsewhere_are_counted_over_all_images() -> None:
    """One flip an image passes, too many of them together do not."""
    contract = tiny_contract(**KINDS["keypoints"])

    def report(moved: int, images: int) -> ParityReport:
        one = SampleParity(2, 2, 2, keypoints=10, keypoint_flips=1)
        none = replace(one, keypoint_flips=0)
        samples = {str(i): one if i < moved else none for i in range(images)}
        return ParityReport("j", "0" * 64, TOLERANCE, contract, samples)

    assert report(2, 10).passed
    assert report(3, 10).reasons == ("keypoints: 3.00% of all in another heatmap cell (limit 2.00%)",)
    assert report(3, 10).to_json()["max"]["keypoint_flip_ratio"] == 0.03


def test_keypoints_that_the_models_own_noise_dominates_are_not_counted() -> None:
    contract = tiny_contract(**KINDS["keypoints"])
    flipped = measured(keypoints=10, keypoint_flips=9, noise_dominated=("keypoint_flip_ratio",))
    report = report_of(flipped, measured(keypoints=10), contract=contract)
    assert report.keypoint_flip_ratio == 0
    assert report_of(flipped, contract=contract).keypoint_flip_ratio is None


def test_what_rounding_explains_and_what_own_runs_disagree_about_is_noted_apart() -> None:
    excused, undetermined = one_sided(excused=True), one_sided(undetermined=True)
    sample = measured(5, paired=3, missing=(excused, undetermined), extra=(excused,))
    report = report_of(sample, measured(3), noise_floor_unmatched=2)
    assert report.passed
    assert report.verdicts["matching"].note.split("; ") == [
        "excused as rounding: 2 missing or extra",
        "undetermined on 1 inputs: 1 of 8 detections missing, 0 extra",
        "the model's own runs disagree about them",
        "noise floor: 2 missing or extra between the model's own runs",
    ]
    counts = report.undetermined
    assert (counts.inputs, counts.missing, counts.extra) == (1, 1, 0)
    assert (counts.expected, counts.determined) == (8, 6)
    assert counts.why.keys() == {"a"}
    assert counts.why["a"].startswith("1 of 5 missing and 0 extra")


@pytest.mark.parametrize(("undetermined", "passed"), [(4, True), (5, False)])
def test_half_of_the_detections_may_be_undetermined(undetermined: int, passed: bool) -> None:
    assert MOST_UNDETERMINED == 0.5
    missing = (one_sided(undetermined=True),) * undetermined
    report = report_of(measured(8, paired=8 - undetermined, missing=missing))
    assert report.passed is passed
    if not passed:
        assert failed(report) == ["matching"]
        assert report.reasons[0].startswith("too little is determined: 5 of 8 detections are missing")


def test_pairs_that_noise_dominates_determine_nothing() -> None:
    noisy = measured(noise_dominated=("score",))
    report = report_of(noisy)
    assert failed(report) == ["matching"]
    assert "0 are paired and agree within the model's noise or the tolerance" in report.reasons[0]
    assert report.verdicts["numerics"].note == (
        "undetermined on 1 inputs, since the model's own error exceeds the tolerance by far: score"
    )
    assert report_of(noisy, measured(1)).passed
    # Pairs that agree all the same determine something.
    assert report_of(measured(noise_dominated=("score",), agreeing=2, paired=2)).passed


def test_limits_that_were_widened_are_noted() -> None:
    limits = (Limit("score", 1e-3, 2e-4, 1e-3), Limit("box_px", 1e-5, 0.01, 0.01))
    report = report_of(measured(), limits=limits)
    assert report.verdicts["numerics"].note == "limits widened to the model's own noise: score 0.001"
    assert [limit["widened"] for limit in report.to_json()["limits"]] == [True, False]


def test_accuracy_is_a_verdict_of_its_own() -> None:
    assert report_of(measured()).verdicts["accuracy"].note == "not measured"
    assert not report_of(measured()).verdicts["accuracy"].evaluated
    assert report_of(measured(), accuracy=accuracy_of(0.5, 0.499)).passed
    assert failed(report_of(measured(), accuracy=accuracy_of(0.5, 0.4))) == ["accuracy"]
    low = report_of(measured(), accuracy=accuracy_of(0.01, 0.01))
    assert low.passed
    assert "too low to compare with" in low.verdicts["accuracy"].note


def test_reduced_precision_has_no_limits_and_needs_a_metric() -> None:
    far = measured(numerics=("boxes",), matching=("lost",), broken=("NaN",), box_limit_px=0.01)
    report = report_of(far).without_limits()
    assert report.tolerance is None
    assert [verdict.evaluated for verdict in report.verdicts.values()] == [True, False, False, True]
    assert report.reasons[0] == "a: NaN"
    assert "reduced precision is evaluated by accuracy alone" in report.reasons[1]
    assert report.to_json()["samples"][0]["box_limit_px"] is None
    assert replace(report_of(measured()).without_limits(), accuracy=accuracy_of(0.5, 0.5)).passed


def test_an_artifact_that_fails_on_the_annotated_images_is_at_fault(tmp_path: Path) -> None:
    session: Any = object()

    def fails(given: Any) -> Accuracy:
        assert given is session
        raise RuntimeError("a kernel failed")

    report = report_of(measured()).with_accuracy(session, fails)
    assert report.reasons == ("accuracy: RuntimeError: a kernel failed",)
    reached = accuracy_of(0.5, 0.5)
    assert report_of(measured()).with_accuracy(session, lambda _: reached).accuracy is reached


@pytest.mark.parametrize("error", [DataError("no annotations"), MemoryError()])
def test_data_or_a_machine_that_fails_says_nothing_of_the_artifact(error: Exception) -> None:
    def fails(_: Any) -> Accuracy:
        raise error

    with pytest.raises(type(error)):
        report_of(measured()).with_accuracy(None, fails)  # type: ignore[arg-type]


def test_unmatched_detections_are_listed_those_that_count_first() -> None:
    first = measured(paired=3, missing=(one_sided(0.9, excused=True),), extra=(one_sided(0.8),))
    second = measured(paired=3, missing=(one_sided(0.7),))
    listed = report_of(first, second).to_json()["unmatched"]
    assert [(one["sample"], one["side"], one["score"], one["excused"]) for one in listed] == [
        ("a", "extra", 0.8, False),
        ("b", "missing", 0.7, False),
        ("a", "missing", 0.9, True),
    ]


def test_the_largest_errors_are_those_of_the_contracts_outputs() -> None:
    report = report_of(measured(errors={"box_error_px": 0.25, "score_error": 0.5}), measured())
    largest = report.to_json()["max"]
    assert (largest["box_error_px"], largest["score_error"]) == (0.25, 0.5)
    assert largest["mask_error_px"] is None
    assert "sem_seg_error" not in largest
    assert report.to_json()["detections"] == {"expected": 8, "actual": 8, "paired": 8}


def test_the_coverage_is_written_with_its_gaps() -> None:
    coverage = InputCoverage({"data": 1}, 1, 0, 10, 3, 0, 1, 1)
    value = report_of(measured(), coverage=coverage).to_json()["input_coverage"]
    assert value["kinds"] == {"data": 1}
    assert value["gaps"] == list(coverage.gaps) != []
    assert report_of(measured()).to_json()["input_coverage"] is None


def drawn() -> dict[str, Any]:
    image = tiny_image()
    return {
        id: postprocess(raw_outputs(CONTRACT, image), (30, 50), size, CONTRACT)
        for id, size in {"0001-1x": (60, 100), "a/b": (9, 9)}.items()
    }


def test_the_report_is_strict_json_and_the_same_every_time(tmp_path: Path) -> None:
    sample = measured(missing=(one_sided(undetermined=True),), errors={})
    for name in ("a", "b"):
        report = report_of(sample, contract=CONTRACT, accuracy=accuracy_of(0.5, 0.4), drawn=drawn())
        report.save(tmp_path / f"{name}.json", tmp_path / f"{name}.npz")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    value = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert value["passed"] is False
    assert "drawn" not in value


def test_drawn_outputs_come_back_by_their_ids(tmp_path: Path) -> None:
    report_of(drawn=drawn()).save(tmp_path / "t.json", tmp_path / "t.npz")
    found = read_drawn(tmp_path / "t.npz")
    assert found.keys() == drawn().keys()
    for id, outputs in drawn().items():
        assert found[id].keys() == outputs.keys()
        assert found[id].pop("segments_info") == outputs.pop("segments_info")
        for name, value in outputs.items():
            np.testing.assert_array_equal(found[id][name], value)


def test_a_report_without_drawn_outputs_has_an_empty_file(tmp_path: Path) -> None:
    report_of(measured()).save(tmp_path / "t.json", tmp_path / "t.npz")
    assert read_drawn(tmp_path / "t.npz") == {}
