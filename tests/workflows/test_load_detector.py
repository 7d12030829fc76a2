"""Load an artifact from a folder, the registry or a run."""

import sys
from pathlib import Path

import mlflow
import pytest

import detexport
from detexport.errors import ArtifactError, ConfigError
from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.workflows.load_detector import registered_engine
from photos import assert_same

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from toy_project import folder, toy_artifact, toy_job, write_project


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one registered model in an SQLite store."""
    root = tmp_path_factory.mktemp("registry")
    write_project(root)
    job = toy_job(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register_jobs([job], workspace=root, checkout=root, settings=RegistrySettings.of({}))
    return root


@pytest.fixture
def client(registry: Path) -> mlflow.MlflowClient:
    mlflow.set_tracking_uri(f"sqlite:///{registry}/mlflow.db")
    return mlflow.MlflowClient()


def test_a_registered_model_is_loaded_by_version_and_alias(
    client: mlflow.MlflowClient, registry: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[OnnxRuntime] = []
    open_ = OnnxRuntime.open
    monkeypatch.setattr(OnnxRuntime, "open", lambda self, *a: (opened.append(self), open_(self, *a))[1])
    expected = detexport.load(folder(registry) / "artifacts" / "onnx")(photo)
    client.set_registered_model_alias("toy-onnx", "champion", "1")
    for uri in ("models:/toy-onnx/1", "models:/toy-onnx@champion"):
        detector = detexport.load(uri)
        assert detector.artifact.sha256 == toy_artifact(registry).sha256
        assert_same(detector(photo), expected)
        assert opened[-1] == OnnxRuntime(threads=1)  # as it was registered
    detexport.load("models:/toy-onnx/1", target="onnx")
    assert opened[-1] == OnnxRuntime()


def test_a_folder_of_a_run_is_loaded(client: mlflow.MlflowClient, registry: Path, photo: Path) -> None:
    artifact_dir = folder(registry) / "artifacts" / "onnx"
    (run,) = client.search_runs([client.get_experiment_by_name("detexport").experiment_id])
    client.log_artifacts(run.info.run_id, str(artifact_dir), "mine")
    expected = detexport.load(artifact_dir)(photo)
    assert_same(detexport.load(f"runs:/{run.info.run_id}/mine")(photo), expected)
    assert_same(detexport.load(f"runs:/{run.info.run_id}/detector")(photo), expected)
    with pytest.raises(ArtifactError, match=r"holds no artifact of detexport"):
        detexport.load(f"runs:/{run.info.run_id}/certificate.json")


def test_a_model_that_is_not_registered_is_refused(client: mlflow.MlflowClient) -> None:
    with pytest.raises(ConfigError, match=r"the registry sqlite:.* has no such version; got: .*toy-onnx"):
        detexport.load("models:/toy-onnx/7")


def test_a_registered_model_cannot_name_another_class(registry: Path) -> None:
    artifact = toy_artifact(registry)
    engine = "detexport.runtime.onnxruntime.OnnxRuntime"
    for runtime in ({"_target_": "os.system"}, {"_target_": engine, "unknown": 1}):
        with pytest.raises(ArtifactError, match="does not have; got: "):
            registered_engine(artifact, runtime)


def test_what_cannot_be_loaded_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        detexport.load(tmp_path)
    with pytest.raises(ConfigError, match="unknown target"):
        detexport.load(tiny_onnx, target="onx")
    with pytest.raises(ConfigError, match="does not run artifacts of this format"):
        detexport.load(tiny_onnx, target="openvino")
