"""The stages `validate` and `require_passed` as DVC runs them: processes, in a folder with params.yaml."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detexport.parity.noise_floor import NoiseFloor
from detexport.processing.postprocess import postprocess
from detexport.reference.store import EagerAccuracy, SampleMeta, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.files import write_json
from tiny_artifacts import tiny_contract, tiny_image, write_tiny_onnx

STAGES = Path(__file__).parents[2] / "stages"
CONF = Path(__file__).parents[2] / "conf"
JOB = "tiny-onnx"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A model folder with a reference and an artifact, and the parameters that the repository ships."""
    model = tmp_path / "models" / "tiny"
    write_tiny_onnx(model / "artifacts" / "onnx")
    write_expected(model, model / "artifacts" / "onnx", shift_px=0)
    write_json(model / "noise_floor.json", NoiseFloor(samples=(), environment={}, variants={}).to_json())
    runtime = {"_target_": "detexport.runtime.onnxruntime.OnnxRuntime", "threads": 1}
    params = {
        "data": {"categories": None},
        "jobs": {JOB: {"model": "tiny", "target": "onnx", "artifact": "onnx"}},
        "targets": {"onnx": {"artifact": "onnx", "runtime": runtime}},
        "parity": yaml.safe_load((CONF / "parity" / "default.yaml").read_text()),
        "engine": yaml.safe_load((CONF / "engine" / "local.yaml").read_text()),
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def write_expected(
    model: Path, artifact_dir: Path, *, shift_px: float, accuracy: EagerAccuracy | None = None
) -> None:
    session = OnnxRuntime(threads=1).open(artifact_dir)
    image, size = tiny_image(), (30, 50)
    expected = postprocess(session(image), size, size, tiny_contract())
    expected["pred_boxes"] += np.float32(shift_px)
    meta = SampleMeta("0001-1x", 1, "000001.png", size, size, 1.0)
    write_reference(
        model / "reference",
        [(meta, image, expected)],
        contract=tiny_contract(),
        environment={},
        accuracy=accuracy,
    )


def stage(name: str, workspace: Path, **arguments: str | Path) -> subprocess.CompletedProcess[str]:
    options = [
        item for key, value in arguments.items() for item in (f"--{key.replace('_', '-')}", str(value))
    ]
    command = [sys.executable, str(STAGES / f"{name}.py"), *options]
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


def validate(workspace: Path, **changes: str | Path) -> subprocess.CompletedProcess[str]:
    model = Path("models/tiny")
    arguments: dict[str, Any] = {
        "job": JOB,
        "artifact_dir": model / "artifacts" / "onnx",
        "reference": model / "reference",
        "floor": model / "noise_floor.json",
        "data": "data",
        "save_to": model / "parity" / "onnx.json",
        "save_drawn_to": model / "parity" / "onnx_drawn.npz",
        "save_certificate_to": model / "parity" / "onnx_certificate.json",
    }
    return stage("validate", workspace, **{**arguments, **changes})


def gate(workspace: Path) -> subprocess.CompletedProcess[str]:
    return stage("require_passed", workspace, models_dir="models", registered="registered.json")


def verdict(workspace: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((workspace / "models/tiny/parity/onnx.json").read_text())
    return value


def register(workspace: Path, **receipts: Any) -> None:
    entry = {"job": JOB, "name": JOB, "version": 1, "artifact_sha256": verdict(workspace)["artifact_sha256"]}
    receipts = {"tracking_uri": "", "registered": [entry], "refused": [], **receipts}
    write_json(workspace / "registered.json", receipts)


def test_an_artifact_that_agrees_passes_and_the_gate_opens(workspace: Path) -> None:
    result = validate(workspace)
    assert result.returncode == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert first == f"{JOB}: passed"
    assert [line.split()[:2] for line in lines] == [
        ["contract", "passed"],
        ["numerics", "passed"],
        ["matching", "passed"],
        ["accuracy", "not"],
    ]
    assert lines[-1].endswith("not measured")
    assert "1/1" in result.stderr, "a progress bar"
    assert verdict(workspace)["passed"] is True
    register(workspace)
    result = gate(workspace)
    assert result.returncode == 0, result.stderr
    assert "1 of 1 jobs passed" in result.stdout


@pytest.mark.parametrize(("judged", "asked"), [(["float32"], True), (["bf16", "int8"], False)])
def test_the_task_metric_is_measured_for_the_precisions_that_are_asked_about(
    workspace: Path, judged: list[str], asked: bool
) -> None:
    model = workspace / "models" / "tiny"
    accuracy = EagerAccuracy({"bbox/AP": 1.0}, (1,))
    write_expected(model, model / "artifacts" / "onnx", shift_px=0, accuracy=accuracy)
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["parity"]["accuracy_precisions"] = judged
    (workspace / "params.yaml").write_text(yaml.safe_dump({**params, "data": {"categories": None}}))
    result = validate(workspace)
    if asked:  # on annotations, which are not there
        assert result.returncode == 2
        assert "no file data/annotations" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert "  accuracy  not evaluated" in result.stdout


def test_an_artifact_that_disagrees_is_a_result_and_the_gate_stays_shut(workspace: Path) -> None:
    model = workspace / "models" / "tiny"
    write_expected(model, model / "artifacts" / "onnx", shift_px=1)
    result = validate(workspace)
    assert result.returncode == 0, "a verdict is no crash"
    assert "did not pass" in result.stdout
    assert verdict(workspace)["passed"] is False
    register(workspace, registered=[], refused=[{"job": JOB, "reasons": ["parity did not pass"]}])
    result = gate(workspace)
    assert result.returncode == 1
    assert f"error: {JOB}: 0001-1x: boxes: 3 of 3 pairs" in result.stderr
    assert "0 of 1 jobs passed" in result.stdout


def test_the_gate_stays_shut_where_registration_refused(workspace: Path) -> None:
    validate(workspace)
    register(workspace, registered=[], refused=[{"job": JOB, "reasons": ["the artifact was changed"]}])
    result = gate(workspace)
    assert result.returncode == 1
    assert result.stderr == f"error: {JOB}: the artifact was changed\n"


def test_the_gate_stays_shut_without_a_verdict(workspace: Path) -> None:
    result = gate(workspace)
    assert result.returncode == 1
    assert "it was not validated" in result.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job": "nothing"}, "error: params.yaml has no jobs.nothing"),
        ({"reference": "models"}, "error: models is not a reference"),
        ({"artifact_dir": "models"}, "error: models is not an artifact"),
    ],
)
def test_bad_input_is_one_line_and_writes_no_verdict(
    changes: dict[str, str], message: str, workspace: Path
) -> None:
    result = validate(workspace, **changes)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not (workspace / "models/tiny/parity").exists()
