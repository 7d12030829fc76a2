"""What is downloaded of a version is what was registered."""

import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from toy_project import toy_artifact, toy_job, write_project

from detexport.artifact import MANIFEST, read_artifact
from detexport.errors import ArtifactError
from detexport.registry.download import downloaded
from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from detexport.system.digests import sha256_file


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_project(tmp_path)
    register_jobs(
        [toy_job(tmp_path)], workspace=tmp_path, checkout=tmp_path, settings=RegistrySettings.of({})
    )
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def test_another_artifact_in_the_place_of_the_registered_one_is_refused(root: Path) -> None:
    mlflow.MlflowClient().set_registered_model_alias("toy-onnx", "champion", "1")
    for uri in ("models:/toy-onnx/1", "models:/toy-onnx@champion"):
        with downloaded(uri) as stored:
            assert read_artifact(stored.folder) == toy_artifact(root)
            assert stored.runtime["threads"] == 1
    # The file and its manifest are changed together: the folder is an artifact, but another one.
    folder = next(root.glob(f"mlartifacts/models/*/artifacts/artifacts/*/{MANIFEST}")).parent
    shutil.copy(folder / "model.onnx", root / "kept.onnx")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\x72\x02\x0a\x00")  # an empty entry of metadata_props
    artifact = read_artifact(folder)
    replace(artifact, files={"model.onnx": sha256_file(folder / "model.onnx")}).save(folder)
    for uri in ("models:/toy-onnx/1", "models:/toy-onnx@champion"):
        with (
            pytest.raises(ArtifactError, match="not hold the artifact that was registered"),
            downloaded(uri),
        ):
            pass
