"""``detexport validate``: one artifact against another, and against what the pipeline left beside it."""

import json
import shutil
from pathlib import Path

import pytest

import tiny_artifacts
from conftest import Run
from detexport.cli.validate import Question
from detexport.cli.validate import run as validate
from detexport.data.synthetic import SyntheticShapes
from detexport.errors import ConfigError
from detexport.parity.certificate import read_certificate
from detexport.parity.reference import SampleMeta, write_reference
from detexport.postprocess import postprocess
from detexport.runtime.onnxruntime import OnnxRuntime
from tiny_artifacts import tiny_image, write_tiny_onnx


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    SyntheticShapes(train_images=0, val_images=3, sizes=[(48, 64), (40, 56)]).write(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "onnx"
    write_tiny_onnx(folder)
    return folder


def test_an_artifact_is_what_it_is(run: Run, artifact: Path, data: Path, tmp_path: Path) -> None:
    done = run(
        "validate", artifact, "--against", artifact, "--data", data, "--images", 2, "--save-dir", tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("passed")
    assert [line.split()[0] for line in lines[1:5]] == ["contract", "drift", "flips", "metric"]
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["max"]["box_error_px"] == 0
    assert report["detections"]["paired"] > 0
    assert {"odd size", "wide", "black", "noise"} <= report["conditions"]["kinds"].keys()
    certificate = read_certificate(tmp_path / "certificate.json")
    assert certificate["artifact"]["sha256"] == report["artifact_sha256"]


def test_what_differs_is_told_and_ends_with_1(
    run: Run, artifact: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_artifacts, "FRACTIONS", tiny_artifacts.FRACTIONS * 0.99)
    write_tiny_onnx(tmp_path / "other")
    done = run("validate", tmp_path / "other", "--against", artifact, "--data", data, "--images", 2, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["verdicts"]["drift"]["passed"]
    assert report["verdicts"]["contract"]["passed"]


def test_artifacts_of_other_models_are_refused(run: Run, artifact: Path, data: Path, tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / "other", "keypoints")
    done = run("validate", artifact, "--against", tmp_path / "other", "--data", data)
    assert done.returncode == 1
    assert "is not an artifact of the same model" in done.stderr


@pytest.mark.parametrize(
    ("against", "config_file", "reason"),
    [
        (None, "", "neither a model nor another artifact"),
        (Path(), "", "no --data"),
        (Path(), "c.yaml", "held against one thing"),
    ],
)
def test_a_request_that_asks_for_nothing_is_refused(
    artifact: Path, against: Path | None, config_file: str, reason: str
) -> None:
    question = Question(
        artifact_dir=artifact,
        data=None,
        against=against,
        config_file=config_file,
        weights="",
        target="",
        against_target="",
        images=1,
        quality_images=0,
        device="cpu",
        save_dir=None,
        as_json=False,
        overrides=(),
    )
    with pytest.raises(ConfigError, match=reason):
        validate(question)


def test_the_pipelines_reference_is_found_beside_the_artifact(
    run: Run, artifact: Path, tmp_path: Path
) -> None:
    placed = tmp_path / "model" / "artifacts" / "onnx"
    shutil.copytree(artifact, placed)
    session, image, size = OnnxRuntime(threads=1).open(placed), tiny_image(), (30, 50)
    contract = session.artifact.contract
    expected = postprocess(session(image), size, size, contract)
    meta = SampleMeta("0001-1x", 1, "000001.png", size, size, 1.0)
    write_reference(
        tmp_path / "model/reference", [(meta, image, expected)], contract=contract, environment={}
    )
    done = run("validate", placed)
    assert done.returncode == 0, done.stderr
    assert "metric    not judged" in done.stdout
    expected["pred_boxes"] += 1
    write_reference(
        tmp_path / "model/reference", [(meta, image, expected)], contract=contract, environment={}
    )
    assert run("validate", placed).returncode == 1
