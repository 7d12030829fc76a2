"""The results of a run as its stages wrote them: what a job's verdict is, and whether it is shipped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detexport.errors import DataError
from detexport.report.collect import ReportedJob, Results, collect
from detexport.system.files import write_json

JOBS = {
    "tiny-onnx": {"model": "tiny", "target": "onnx", "artifact": "onnx"},
    "tiny-lost": {"model": "tiny", "target": "lost", "artifact": "onnx"},
}
DIGEST = "d" * 64
REGISTERED = {"job": "tiny-onnx", "name": "tiny-onnx", "version": 3, "artifact_sha256": DIGEST}
REFUSED = {"job": "tiny-lost", "reasons": ["parity did not pass", "no latency"]}

LATENCY = {"p50_ms": 2.0, "p90_ms": 2.0, "p99_ms": 2.0, "mean_ms": 2.0, "load_s": 0.1}


def verdict(*reasons: str, passed: bool) -> dict[str, Any]:
    counts = {"expected": 1, "actual": 1, "paired": 1}
    fields = {"max": {}, "detections": counts, "samples": [], "tolerance": None}
    return {"passed": passed, "reasons": list(reasons), "artifact_sha256": DIGEST, **fields}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of one model with two jobs, of which one did not pass."""
    model = tmp_path / "models/tiny"
    write_json(model / "artifacts/onnx/artifact.json", {"format": "ONNX"})
    write_json(model / "parity/onnx.json", verdict(passed=True))
    write_json(model / "parity/lost.json", verdict("lost", passed=False))
    write_json(model / "parity/lost_diagnosis/diagnosis.json", {"segment": "backbone"})
    write_json(model / "build/contract.json", {"class_names": ["dot"]})
    cpu = {"status": "measured", "image_size": [30, 50], "runners": {"onnx": LATENCY, "eager": LATENCY}}
    devices = {"cpu": cpu, "cuda": {"status": "skipped"}}
    write_json(model / "latency.json", {"artifacts": {}, "devices": devices})
    receipts = {"tracking_uri": "sqlite:///x", "registered": [REGISTERED], "refused": [REFUSED]}
    write_json(tmp_path / "registered.json", receipts)
    write_json(tmp_path / "data/dataset.json", {"name": "dots"})
    write_json(tmp_path / "checkpoints/tiny.json", {"bbox/AP": 0.5})
    return tmp_path


def collected(root: Path, jobs: dict[str, Any] = JOBS) -> Results:
    return collect(jobs, root / "models", root / "registered.json", root / "data", root / "checkpoints")


def test_every_file_of_a_run_is_read(root: Path) -> None:
    results = collected(root)
    shipped, lost = results.jobs
    (model,) = results.models
    assert (results.tracking_uri, results.dataset) == ("sqlite:///x", {"name": "dots"})
    assert (model.contract, model.training) == ({"class_names": ["dot"]}, {"bbox/AP": 0.5})
    assert (shipped.artifact, shipped.latency) == ({"format": "ONNX"}, {"cpu": LATENCY})
    assert (lost.diagnosis, lost.latency) == ({"segment": "backbone"}, {})
    assert (results.passed, results.versions, results.experiments) == (1, 1, 0)


def test_a_run_of_which_nothing_was_written_has_no_verdict(tmp_path: Path) -> None:
    results = collect(JOBS, tmp_path / "models", tmp_path / "registered.json")
    assert [job.verdict for job in results.jobs] == ["no verdict"] * 2
    assert results.jobs[0].reasons == ("it was not validated",)
    assert (results.passed, results.versions, results.experiments) == (0, 0, 0)
    assert (results.dataset, results.left_out) == ({}, {})


def test_only_what_was_asked_for_counts(root: Path) -> None:
    results = collected(root, {"tiny-onnx": JOBS["tiny-onnx"]})
    assert [job.name for job in results.jobs] == ["tiny-onnx"]
    assert (results.passed, results.versions) == (1, 1)


def test_the_run_of_an_experiment_is_no_version(root: Path) -> None:
    logged = {name: value for name, value in REGISTERED.items() if name != "version"}
    receipts = {"registered": [{**logged, "experiment": "e", "run_id": "0123456789"}], "refused": [REFUSED]}
    write_json(root / "registered.json", {"tracking_uri": "sqlite:///x", **receipts})
    results = collected(root)
    assert (results.passed, results.versions, results.experiments) == (1, 0, 1)


def test_jobs_share_their_model(root: Path) -> None:
    other = {"other-onnx": {"model": "other", "target": "onnx", "artifact": "onnx"}}
    results = collected(root, {**other, **JOBS})
    assert [model.name for model in results.models] == ["other", "tiny"]
    assert [job.name for job in results.jobs] == ["other-onnx", *JOBS]


def job_with(**changes: Any) -> ReportedJob:
    fields = {"parity": {"passed": True, "artifact_sha256": DIGEST}, "registration": REGISTERED, **changes}
    return ReportedJob("tiny-onnx", "tiny", "onnx", **fields)


def test_a_job_is_shipped_as_the_artifact_that_passed() -> None:
    job = job_with()
    assert (job.passed, job.shipped, job.verdict, job.reasons) == (True, True, "passed", ())
    assert job.registered_as == "tiny-onnx v3"


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        (
            {"registration": {**REGISTERED, "artifact_sha256": "0" * 64}},
            ("the registered version holds another artifact",),
        ),
        ({"registration": {}}, ("it is not registered",)),
        ({"refusals": ("the artifact was changed",)}, ("the artifact was changed",)),
        ({"parity": {}, "refusals": ("no verdict",)}, ("it was not validated", "no verdict")),
        ({"parity": {"passed": False, "reasons": ["a", "b"], "artifact_sha256": DIGEST}}, ("a", "b")),
    ],
)
def test_why_a_job_is_not_shipped(changes: dict[str, Any], reasons: tuple[str, ...]) -> None:
    job = job_with(**changes)
    assert not job.shipped
    assert job.reasons == reasons


def test_refusals_of_a_job_are_its_own(root: Path) -> None:
    shipped, lost = collected(root).jobs
    assert (shipped.refusals, lost.refusals) == ((), ("parity did not pass", "no latency"))
    assert lost.reasons == ("lost",)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda root: (root / "registered.json").write_text("{"),
        lambda root: (root / "models/tiny/parity/onnx.json").write_text("not JSON"),
        lambda root: (root / "models/tiny/latency.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_file_that_is_not_json_is_named(spoil: Callable[[Path], Any], root: Path) -> None:
    spoil(root)
    with pytest.raises(DataError, match=r"\.json .*; got: .*remedy: run the stage"):
        collected(root)
