"""The runtime of an artifact: its format's, or that of a target that runs the format."""

from pathlib import Path

import pytest

from detexport.artifact import read_artifact
from detexport.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from detexport.runtime import DEFAULT_ENGINES
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript
from detexport.targets.table import targets
from detexport.workflows.choose_runtime import OnDevice, asked_target, engine_of


def test_without_a_target_the_formats_runtime_runs_it(tiny_onnx: Path, tiny_scripting: Path) -> None:
    assert isinstance(engine_of(tiny_onnx, ""), OnnxRuntime)
    assert isinstance(engine_of(tiny_scripting, ""), TorchScript)
    assert asked_target(read_artifact(tiny_onnx), "") is None


@pytest.mark.parametrize("name", targets())
def test_a_target_runs_the_artifacts_of_its_runtimes_format_alone(name: str, tiny_onnx: Path) -> None:
    artifact = read_artifact(tiny_onnx)
    if targets()[name].runtime.path == DEFAULT_ENGINES[artifact.format]:
        assert asked_target(artifact, name) is targets()[name]
        assert engine_of(tiny_onnx, name) == targets()[name].runtime.build()
    else:
        with pytest.raises(ConfigError, match=rf"{name} does not run .*got: ONNX; expected: .*onnx"):
            asked_target(artifact, name)


def test_what_is_no_target_or_no_artifact_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        engine_of(tiny_onnx, "onxx")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        engine_of(tmp_path, "")


def test_an_engine_on_a_device_opens_there_whatever_it_is_told(tiny_onnx: Path) -> None:
    assert OnDevice(OnnxRuntime(), "cpu").open(tiny_onnx, "cuda").device == "cpu"
    with pytest.raises(RuntimeUnavailableError, match="cannot run on 'tpu'"):
        OnDevice(OnnxRuntime(), "tpu").open(tiny_onnx)
