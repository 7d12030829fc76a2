import json
from pathlib import Path
from typing import Any

import pytest

from detexport.report.evidence_lines import SHOWN, error_columns, evidence_lines, floor_columns


@pytest.fixture
def parity(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "models/tiny/parity/onnx.json").read_text())
    return value


def test_inputs_run_and_unsupported_add_up(parity: dict[str, Any]) -> None:
    parity["unsupported_inputs"] = {"batch-1": "batch size 1", "batch-2": "batch size 1", "wide": "too wide"}
    first, *others = evidence_lines(parity, "contract")
    assert first == "ran on 2 of 5 inputs"
    assert "2 outside the declared support, not run: batch size 1" in others
    assert "1 outside the declared support, not run: too wide" in others


def test_many_undetermined_inputs_are_counted(parity: dict[str, Any]) -> None:
    parity["undetermined"]["why"] = {f"input-{index}": "two runs disagree" for index in range(SHOWN + 3)}
    lines = list(evidence_lines(parity, "matching"))
    assert sum(line.startswith("undetermined on input-") for line in lines) == SHOWN
    assert any("3 more inputs" in line for line in lines)


def test_a_model_without_detections_has_none_to_compare(parity: dict[str, Any]) -> None:
    assert "0 unmatched" in list(evidence_lines(parity, "matching"))
    parity["detections"] = {"expected": 0, "actual": 0, "paired": 0}
    assert next(evidence_lines(parity, "matching")) == "no detections to compare"


def test_accuracy_names_the_images_that_lose_most(parity: dict[str, Any]) -> None:
    parity["accuracy"] = {
        "images": 9,
        "budget": 0.001,
        "eager": {"bbox/AP": 0.7},
        "artifact": {"bbox/AP": 0.69},
        "differences": {"bbox/AP": -0.01},
        "intervals": {"bbox/AP": [-0.02, 0.0]},
        "per_image": {"bbox/AP": {"worst": [[17, -0.2]]}},
    }
    lines = list(evidence_lines(parity, "accuracy"))
    assert lines[0] == "9 annotated images, a loss of at most 0.001 allowed"
    assert "bbox/AP 0.690, eager 0.700: delta \u22120.0100, 95 % interval -0.0200 to +0.0000" in lines
    assert "largest losses on images 17 (\u22120.2000)" in lines


def test_columns_are_the_errors_that_were_measured(parity: dict[str, Any]) -> None:
    assert [words for _, words, _ in error_columns(parity)] == ["boxes", "scores", "masks"]
    floor = {"variants": {"threads": {"errors": {"score_error": 0.0}}}}
    assert floor_columns(floor) == [("score_error", "scores", "")]
