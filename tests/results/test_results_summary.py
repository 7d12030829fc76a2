"""The summary of a job, and the digests of its results that the last stages depend on."""

import json
from pathlib import Path

import pytest
from test_job_metrics import RUNNER, VERDICT

from detexport.errors import DataError
from detexport.results.digests import remove_other_jobs, write_digests
from detexport.results.job_metrics import job_summary
from detexport.results.summary import summarize
from detexport.system.files import write_json
from tiny_artifacts import write_tiny_onnx
from tolerances import LIMITS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    artifact = write_tiny_onnx(tmp_path / "artifacts/onnx")
    verdict = {**VERDICT, "reasons": [], "samples": [{"passed": True}], "tolerance": LIMITS}
    write_json(tmp_path / "parity/onnx.json", verdict)
    measured = {"status": "measured", "image_size": [40, 64], "runners": {"onnx": RUNNER}}
    latency = {"artifacts": {"onnx": artifact.sha256}, "devices": {"cpu": measured}}
    write_json(tmp_path / "latency.json", latency)
    return tmp_path


def summary(model: Path) -> dict[str, float | bool]:
    return summarize("onnx", model / "artifacts/onnx", model / "parity/onnx.json", model / "latency.json")


def test_a_summary_is_flat_and_has_the_size_of_the_files(model: Path) -> None:
    found = summary(model)
    assert found["passed"] is True
    assert found["ap"] == 0.69
    assert found["ap_delta"] == -0.01
    assert found["p50_ms"] == 12.5
    assert found["speedup"] == 2.5
    assert found["box_px"] == 2e-5
    files = [file for file in (model / "artifacts/onnx").iterdir() if file.name != "artifact.json"]
    size_mb = sum(file.stat().st_size for file in files) / 1e6
    assert found["size_mb"] == pytest.approx(size_mb, abs=0.001), "not that of the latency"


def test_latencies_of_another_artifact_are_left_out(model: Path) -> None:
    latency = json.loads((model / "latency.json").read_text())
    write_json(model / "latency.json", {**latency, "artifacts": {"onnx": "0" * 64}})
    assert not {"p50_ms", "speedup"} & summary(model).keys()


def test_a_missing_verdict_is_an_error(model: Path) -> None:
    (model / "parity/onnx.json").unlink()
    with pytest.raises(DataError, match="run the stage `validate` again"):
        summary(model)


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ({"ap_box": 0.7, "ap_box_delta": -0.01, "ap_mask": 0.6, "ap_mask_delta": 0.002}, (0.6, -0.01)),
        ({"ap_box": 0.7, "ap_box_delta": 0.0, "pq": 0.66666, "pq_delta": -0.00012345}, (0.6667, -0.0001)),
        ({"miou": 0.5, "miou_delta": 0.0}, (0.5, 0.0)),
        ({}, (None, None)),
    ],
)
def test_ap_is_of_the_most_specific_output_and_its_delta_the_worst(
    deltas: dict[str, float], expected: tuple[float | None, float | None]
) -> None:
    found = job_summary({"passed": False, **deltas, "detections_paired": 3})
    assert (found.get("ap"), found.get("ap_delta")) == expected
    assert found["passed"] is False
    assert not any(name.startswith("detections") for name in found)


def test_a_digest_changes_with_the_file_and_other_jobs_are_removed(tmp_path: Path) -> None:
    result, digests = tmp_path / "results/verdict.json", tmp_path / "jobs"
    write_json(result, {"passed": True})
    for name in ("one", "two"):
        write_digests([result, result.parent], digests / f"{name}.json")
    before = json.loads((digests / "one.json").read_text())
    assert before.keys() == {result.as_posix(), result.parent.as_posix()}
    write_json(result, {"passed": False})
    write_digests([result, result.parent], digests / "one.json")
    after = json.loads((digests / "one.json").read_text())
    assert all(after[name] != before[name] for name in before)
    remove_other_jobs(digests, {"one": {}})
    assert [path.name for path in digests.iterdir()] == ["one.json"]
    remove_other_jobs(tmp_path / "nowhere", {"one": {}})
