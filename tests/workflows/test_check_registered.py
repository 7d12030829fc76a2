"""Whether the versions that the stage ``register`` recorded are still in the registry."""

import shutil
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from detexport.registry.jobs import register_jobs
from detexport.registry.location import own_store_has
from detexport.registry.settings import RegistrySettings
from detexport.workflows.check_registered import outdated_receipt

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from toy_project import toy_job, write_project

SECTION: dict[str, Any] = {"tracking_uri": None, "experiment": "detexport"}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.fixture
def receipts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The receipts of one registered version; the current folder is its workspace."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return register_jobs(
        [toy_job(tmp_path)], workspace=tmp_path, checkout=tmp_path, settings=RegistrySettings.of({})
    )


def test_receipts_of_this_registry_are_kept(receipts: dict[str, Any]) -> None:
    assert outdated_receipt(receipts, SECTION) == ""


def test_a_deleted_version_is_missed_without_and_with_mlflow(
    receipts: dict[str, Any], tmp_path: Path
) -> None:
    versions = {(one["name"], one["version"]) for one in receipts["registered"]}
    assert own_store_has(tmp_path, versions)
    (version,) = receipts["registered"]
    client = mlflow.MlflowClient(receipts["tracking_uri"])
    client.delete_model_version(version["name"], version["version"])
    assert not own_store_has(tmp_path, versions)
    assert outdated_receipt(receipts, SECTION) == "the registry lacks toy-onnx version 1"


def test_a_database_that_is_not_mlflows_has_no_versions(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    assert not own_store_has(tmp_path, {("toy-onnx", "1")})


def test_a_version_that_the_registry_lacks_is_named(receipts: dict[str, Any]) -> None:
    receipts["registered"][0]["version"] = "7"
    assert outdated_receipt(receipts, SECTION) == "the registry lacks toy-onnx version 7"


def test_a_clone_without_a_registry_registers_again(receipts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").unlink()
    assert outdated_receipt(receipts, SECTION) == "there is no mlflow.db"


def test_receipts_of_another_registry_are_outdated(
    receipts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "mlflow.db", copy)
    monkeypatch.chdir(copy)
    reason = outdated_receipt(receipts, SECTION)
    assert reason == f"the registry is sqlite:///{copy / 'mlflow.db'}, not {receipts['tracking_uri']}"


def test_the_receipts_of_a_dvc_experiment_are_outdated(receipts: dict[str, Any]) -> None:
    receipts["experiments"] = [{"job": "toy-onnx", "dvc_experiment": "tidal-wave"}]
    assert outdated_receipt(receipts, SECTION) == "a job ran as a DVC experiment"
