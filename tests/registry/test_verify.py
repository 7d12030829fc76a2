"""A registered version and its digests: every file is changed in turn, also with all digests adjusted."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion
from toy_project import folder, toy_artifact, toy_job, write_project, write_verdict

from detexport.artifact import MANIFEST, Artifact, read_artifact
from detexport.errors import ConfigError
from detexport.registry.jobs import register_jobs
from detexport.registry.provenance import CERTIFICATE_TAG, PROVENANCE, PROVENANCE_TAG, file_digests
from detexport.registry.settings import RegistrySettings
from detexport.registry.verify import Verification, verify_version
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import read_json, write_json

NAME = "toy-onnx"


def open_engine(_: Artifact, runtime: dict[str, Any]) -> OnnxRuntime:
    return OnnxRuntime(threads=runtime["threads"])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with one version, at a path that does not change: MLflow stores absolute ones."""
    root = tmp_path_factory.mktemp("verified")
    write_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register(root)
        mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
        yield root


def register(root: Path) -> dict[str, Any]:
    return register_jobs([toy_job(root)], workspace=root, checkout=root, settings=RegistrySettings.of({}))


@pytest.fixture
def stored(workspace: Path, tmp_path: Path) -> Iterator[Path]:
    """The stored files, which are put back after the test."""
    shutil.copytree(workspace / "mlartifacts", tmp_path / "kept")
    shutil.copy(workspace / "mlflow.db", tmp_path / "kept.db")
    yield workspace / "mlartifacts"
    shutil.rmtree(workspace / "mlartifacts")
    shutil.copytree(tmp_path / "kept", workspace / "mlartifacts")
    shutil.copy(tmp_path / "kept.db", workspace / "mlflow.db")


def version() -> ModelVersion:
    return mlflow.MlflowClient().get_model_version(NAME, "1")


def model_files(stored: Path) -> Path:
    return next(stored.glob("models/*/artifacts"))


def run_files(stored: Path) -> Path:
    return next(stored.glob(f"*/artifacts/{PROVENANCE}")).parent


def verify(**options: Any) -> Verification:
    return verify_version(f"models:/{NAME}/1", engine_of=open_engine, **options)


def failed(result: Verification) -> dict[str, str]:
    return {check.name: "; ".join(check.faults) for check in result.checks if not check.holds}


def test_a_version_as_it_was_registered_holds(workspace: Path) -> None:
    result = verify()
    assert failed(result) == {}
    assert result.holds
    names = ["provenance", "model files", "run files", "artifact", "content", "certificate", "sample"]
    assert [check.name for check in result.checks] == names
    assert result.checks[-1].detail.startswith("0-1x: 3 detections paired; box_error_px 0")
    assert result.provenance_sha256 == version().tags[PROVENANCE_TAG]
    assert result.to_json()["holds"] is True
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    assert verify_version(f"models:/{NAME}@champion").version == "1"


def test_the_provenance_says_where_the_version_comes_from(workspace: Path) -> None:
    path = run_files(workspace / "mlartifacts") / PROVENANCE
    provenance, artifact = read_json(path), toy_artifact(workspace)
    assert provenance == read_json(model_files(workspace / "mlartifacts") / PROVENANCE)
    assert provenance["sha256"]["artifact"] == artifact.sha256
    assert provenance["sha256"]["weights"] == artifact.weights_sha256
    assert provenance["sha256"]["config"] == artifact.config_sha256
    certificate = read_json(folder(workspace) / "parity/onnx_certificate.json")
    assert provenance["sha256"]["certificate"] == certificate["sha256"]
    assert provenance["sha256"]["latency"] == sha256_json(read_json(folder(workspace) / "latency.json"))
    assert provenance["git"]["revision"] == "not a git checkout"
    assert provenance["git"]["clean"] is None
    assert provenance["license"]["code"] == "Apache-2.0"
    assert {"python", "numpy", "onnxruntime"} <= provenance["versions"].keys()
    assert "artifacts/onnx/model.onnx" in provenance["files"]["model"]
    assert "sample/samples/0-1x.npz" in provenance["files"]["run"]


def every_file(root: Path) -> list[tuple[str, str]]:
    """The version's files, of the code one: the others are the same case."""
    kinds = {"model": model_files(root), "run": run_files(root)}
    found = [(kind, name) for kind, path in kinds.items() for name in file_digests(path)]
    of_code = [name for kind, name in found if name.startswith("code/")]
    return [(kind, name) for kind, name in found if name not in of_code[1:]]


def change(path: Path) -> None:
    """Change a file as little as its format allows."""
    if path.suffix == ".json":
        value = read_json(path)
        write_json(path, {**value, "x": 1} if isinstance(value, dict) else [*value, 1])
    else:
        path.write_bytes(path.read_bytes() + b" ")


def test_every_changed_file_is_found_with_its_name(stored: Path) -> None:
    kept = every_file(stored)
    assert len(kept) > 15
    for kind, name in kept:
        root = model_files(stored) if kind == "model" else run_files(stored)
        before = (root / name).read_bytes()
        change(root / name)
        result = verify()
        assert not result.holds, name
        assert f"changed: {name}" in failed(result)[f"{kind} files"]
        assert failed(result)["sample"] == "a check of the files failed"
        (root / name).write_bytes(before)
    assert verify().holds


def adjust(stored: Path) -> None:
    """Bring every digest in the files in line with the files, as an attacker would who can write them all."""
    model, run = model_files(stored), run_files(stored)
    artifact_dir = next(model.glob(f"artifacts/*/{MANIFEST}")).parent
    artifact = read_artifact(artifact_dir)
    replace(artifact, files={name: sha256_file(artifact_dir / name) for name in artifact.files}).save(
        artifact_dir
    )
    target = read_json(model / "artifacts/target.json")
    target["code"] = {name: sha256_file(model / "code/detexport" / name) for name in target["code"]}
    write_json(model / "artifacts/target.json", target)
    certificate = read_json(run / "certificate.json")
    certificate["artifact"] |= {"sha256": read_artifact(artifact_dir).sha256}
    certificate["report_sha256"] = sha256_json(read_json(run / "parity.json"))
    body = {name: value for name, value in certificate.items() if name != "sha256"}
    write_json(run / "certificate.json", {**body, "sha256": sha256_json(body)})
    provenance = read_json(run / PROVENANCE)
    provenance["files"] = {"model": file_digests(model), "run": file_digests(run)}
    for folder_ in (model, run):
        write_json(folder_ / PROVENANCE, provenance)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("artifacts/onnx/model.onnx", {"artifact", "content", "certificate"}),
        ("artifacts/target.json", {"content"}),
        ("code/detexport/processing/postprocess.py", {"content"}),
        ("requirements.txt", {"content"}),
        ("run/parity.json", {"certificate"}),
        ("run/sample/samples/0-1x.npz", set()),
        ("run/latency.json", set()),
        ("run/README.md", set()),
        ("input_example.json", set()),
        ("MLmodel", set()),
        ("pyfunc.py", set()),
    ],
)
def test_a_file_that_was_changed_with_all_digests_is_found(stored: Path, name: str, named: set[str]) -> None:
    path = run_files(stored) / name[4:] if name.startswith("run/") else model_files(stored) / name
    if name == "requirements.txt":
        path.write_text(path.read_text() + "evil==1.0\n")
    elif name == "artifacts/target.json":
        value = read_json(path)
        write_json(path, {**value, "runtime": {**value["runtime"], "threads": 2}})
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            np.savez(path, **{**arrays, "scores": arrays["scores"] / 2})
    else:
        change(path)
    adjust(stored)
    result = verify()
    assert not result.holds
    assert "has the digest" in failed(result)["provenance"]
    assert named <= failed(result).keys()
    # The artifact's files are read once, and their fault is reported once.
    if "artifact" in named:
        assert failed(result)["content"] == "the artifact cannot be read"


def test_the_certificate_of_another_artifact_is_found(stored: Path, workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_project(other)
    write_verdict(other, "onnx", replace(toy_artifact(other), weights_sha256="d" * 64))
    for name, path in {"certificate.json": "onnx_certificate.json", "parity.json": "onnx.json"}.items():
        shutil.copy(folder(other) / "parity" / path, run_files(stored) / name)
    result = verify()
    assert "about another artifact" in failed(result)["certificate"]
    assert "changed: certificate.json, parity.json" in failed(result)["run files"]
    # The same of another job, with every digest adjusted, and even the tag of the certificate.
    certificate = {**read_json(run_files(stored) / "certificate.json"), "job": "toy-other"}
    write_json(run_files(stored) / "certificate.json", certificate)
    adjust(stored)
    digest = read_json(run_files(stored) / "certificate.json")["sha256"]
    mlflow.MlflowClient().set_model_version_tag(NAME, "1", CERTIFICATE_TAG, digest)
    assert "about another job: toy-other" in failed(verify())["certificate"]


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (
            lambda model, run: (model / "evil.py").write_text("x"),
            "model files",
            "not in the provenance: evil",
        ),
        (lambda model, run: (model / "MLmodel").unlink(), "model files", "missing: MLmodel"),
        (lambda model, run: shutil.rmtree(run / "sample"), "run files", "missing: sample/reference.json"),
        (lambda model, run: (run / PROVENANCE).unlink(), "provenance", "of the run is missing"),
        (lambda model, run: (model / PROVENANCE).write_text("["), "provenance", "JSONDecodeError"),
        (lambda model, run: shutil.rmtree(model / "artifacts"), "artifact", "not one artifact"),
        (lambda model, run: (run / "certificate.json").write_text("{}"), "certificate", "not a certificate"),
    ],
)
def test_lost_and_added_files_are_found(
    stored: Path, spoil: Callable[[Path, Path], Any], check: str, words: str
) -> None:
    spoil(model_files(stored), run_files(stored))
    assert words in failed(verify())[check]


def test_a_wrong_output_on_the_sample_is_found(stored: Path) -> None:
    """With write access to files and registry everything agrees, and only the outputs tell."""
    path = run_files(stored) / "sample/samples/0-1x.npz"
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "scores": arrays["scores"] - np.float32(0.01)})
    adjust(stored)
    known = version().tags[PROVENANCE_TAG]
    client = mlflow.MlflowClient()
    certificate = read_json(run_files(stored) / "certificate.json")["sha256"]
    provenance = sha256_json(read_json(run_files(stored) / PROVENANCE))
    for tag, digest in {CERTIFICATE_TAG: certificate, PROVENANCE_TAG: provenance}.items():
        client.set_model_version_tag(NAME, "1", tag, digest)
    result = verify()
    assert list(failed(result)) == ["sample"]
    assert "0.01" in failed(result)["sample"]
    # A digest that is kept elsewhere still tells.
    assert "expected" in failed(verify(provenance_sha256=known))["provenance"]


def test_a_version_without_provenance_does_not_hold(stored: Path) -> None:
    mlflow.MlflowClient().delete_model_version_tag(NAME, "1", PROVENANCE_TAG)
    assert "register it again" in failed(verify())["provenance"]


def test_registering_again_changes_nothing(workspace: Path) -> None:
    before = json.dumps(dict(version().tags), sort_keys=True)
    register(workspace)
    assert json.dumps(dict(version().tags), sort_keys=True) == before
    assert verify().holds


@pytest.mark.parametrize("uri", ["toy-onnx", "models:/toy-onnx", "runs:/1/x", "models:/toy-onnx/x"])
def test_what_is_no_version_is_refused(workspace: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="not a registered version"):
        verify_version(uri)


@pytest.mark.parametrize("uri", ["models:/toy-onnx/99", "models:/no-such/1", "models:/toy-onnx@no-such"])
def test_a_version_that_is_not_there_is_told(workspace: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="has no such version"):
        verify_version(uri)
