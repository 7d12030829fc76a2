import json
from pathlib import Path
from typing import Any

from detexport.report.collect import ReportedJob, ReportedModel
from detexport.report.error_table import error_rows, largest_fraction
from tolerances import TOLERANCE


def read(run: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "models" / "tiny" / name).read_text())
    return value


def test_each_error_stands_next_to_its_limit_and_the_noise_floor(run: Path) -> None:
    parity = read(run, "parity/onnx.json")
    parity["limits"] = [{"name": "box_px", "floor": 2e-5}]
    parity["max"]["box_error_px"] = parity["samples"][0]["errors"]["box_error_px"] = 0.005
    model = ReportedModel("tiny", run, reference=read(run, "reference/reference.json"))
    job = ReportedJob("tiny-onnx", "tiny", "onnx", parity=parity)
    rows = {row.words: row for row in error_rows(job, model)}
    boxes = rows["boxes"]
    assert (boxes.error, boxes.floor) == ("0.005 px", "2.0e-5 px")
    scale = parity["samples"][0]["box_limit_px"]
    assert boxes.fraction == 0.005 / scale
    assert (rows["masks"].floor, rows["masks, 1 - IoU"].limit) == ("\u2013", "\u2013")
    assert largest_fraction(job, model) == boxes.fraction
    assert parity["tolerance"]["box_px"] == TOLERANCE.box_px


def test_a_limit_widened_on_one_input_counts_there_alone(run: Path) -> None:
    parity = read(run, "parity/onnx.json")
    first, second = parity["samples"][:2]
    first["errors"] = {"score_error": 10 * TOLERANCE.score}
    first["widened"] = {"score": 20 * TOLERANCE.score}
    second["errors"] = {"score_error": 0.25 * TOLERANCE.score}
    job = ReportedJob("tiny-onnx", "tiny", "onnx", parity={**parity, "samples": [first, second]})
    assert largest_fraction(job, ReportedModel("tiny", run)) == 0.5


def test_reduced_precision_has_no_limits(run: Path) -> None:
    parity = {**read(run, "parity/onnx.json"), "tolerance": None}
    job, model = ReportedJob("tiny-onnx", "tiny", "onnx", parity=parity), ReportedModel("tiny", run)
    assert largest_fraction(job, model) is None
    assert {row.limit for row in error_rows(job, model)} == {"\u2013"}
