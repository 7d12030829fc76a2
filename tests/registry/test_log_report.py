"""The report in the runs of versions and of experiments, with the workflow that stores it."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from toy_project import toy_job

from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from detexport.registry.verify import verify_version
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.digests import sha256_file
from detexport.system.files import read_json, write_json
from detexport.workflows.publish import publish_report

SECTION = {"tracking_uri": None, "experiment": "detexport"}


@pytest.fixture
def workspace(root: Path, no_server: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a report, in which the pipeline runs."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(root)
    (root / "index.html").write_text("<title>first</title>")
    return root


def register(root: Path, **settings: Any) -> None:
    outcome = register_jobs(
        [toy_job(root)], workspace=root, checkout=root, settings=RegistrySettings.of(settings)
    )
    write_json(root / "registered.json", outcome)


def publish(root: Path) -> dict[str, Any]:
    return publish_report(root / "registered.json", root / "index.html", SECTION)


def stored(root: Path, run_id: str, folder: Path) -> str:
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    folder.mkdir()
    return Path(client.download_artifacts(run_id, "report/index.html", str(folder))).read_text()


def test_the_run_of_a_version_has_the_newest_report(workspace: Path, tmp_path: Path) -> None:
    register(workspace)
    published = publish(workspace)
    run_id = published["runs"]["toy-onnx"]
    assert published == {"report_sha256": sha256_file(workspace / "index.html"), "runs": {"toy-onnx": run_id}}
    assert stored(workspace, run_id, tmp_path / "first") == "<title>first</title>"
    (workspace / "index.html").write_text("<title>second</title>")
    assert publish(workspace)["runs"] == {"toy-onnx": run_id}
    assert stored(workspace, run_id, tmp_path / "second") == "<title>second</title>"


def test_the_run_of_an_experiment_has_it_too(workspace: Path, tmp_path: Path) -> None:
    register(workspace, release=False)
    (experiment,) = read_json(workspace / "registered.json")["experiments"]
    assert publish(workspace)["runs"] == {"toy-onnx": experiment["run_id"]}
    assert stored(workspace, experiment["run_id"], tmp_path / "found") == "<title>first</title>"


def test_the_version_still_holds_and_is_found_again(workspace: Path) -> None:
    register(workspace)
    before = read_json(workspace / "registered.json")
    publish(workspace)
    mlflow.set_tracking_uri(f"sqlite:///{workspace / 'mlflow.db'}")
    engine = OnnxRuntime(threads=1)
    assert verify_version("models:/toy-onnx/1", engine_of=lambda artifact, runtime: engine).holds
    register(workspace)
    assert read_json(workspace / "registered.json") == before


def test_without_a_run_no_registry_is_needed(workspace: Path) -> None:
    write_json(workspace / "registered.json", {"tracking_uri": "", "registered": [], "experiments": []})
    (workspace / "mlflow.db").unlink()
    assert publish(workspace)["runs"] == {}
    assert not (workspace / "mlflow.db").exists()
