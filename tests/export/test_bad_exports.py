"""What no export method takes: a clear error, and nothing is left behind."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import CONTRACT, TinyModel
from torch import Tensor, nn

from detexport.artifact import read_artifact, verify_files
from detexport.errors import ExportError, OutputError
from detexport.export import Provenance
from detexport.targets.table import artifacts
from small_disk import small_disk
from tiny_artifacts import tiny_image

METHODS = [name for name, recipe in artifacts().items() if not recipe.source]
HEAVY = 600_000  # weights, 2.4 MB


@pytest.fixture(autouse=True)
def _fixed_hashes(request: pytest.FixtureRequest) -> None:
    if "scripting" in request.node.name and sys.flags.hash_randomization:
        pytest.skip("scripting needs PYTHONHASHSEED=0")


def export(name: str, model: Any, save_dir: Path, sample: np.ndarray | None = None) -> None:
    artifacts()[name].maker.build().export(
        model,
        tiny_image() if sample is None else sample,
        save_dir,
        contract=CONTRACT,
        provenance=Provenance(weights_sha256="w", config_sha256="c"),
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_tiny_model_is_one_that_they_take(name: str, tmp_path: Path) -> None:
    export(name, TinyModel().eval(), tmp_path / "artifact")
    verify_files(read_artifact(tmp_path / "artifact"), tmp_path / "artifact")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize("name", METHODS)
def test_a_model_in_training_mode_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"TinyModel is in training mode.*call \.eval\(\)"):
        export(name, TinyModel().train(), tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_is_not_on_the_cpu_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"TinyModel is not on the CPU; got: .* on 'meta'.*\.to\(\"cpu\"\)"):
        export(name, TinyModel().eval().to("meta"), tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


class NoTensors(TinyModel):
    """A model whose graph gives what no graph has."""

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        class Text(nn.Module):
            def forward(self, image: Tensor) -> Any:
                return image, "text"

        return Text()


class NoWord(TinyModel):
    """A model that does what ONNX has no word for."""

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        class Permuted(nn.Module):
            def forward(self, image: Tensor) -> tuple[Tensor, ...]:
                boxes = image.to(torch.float32).reshape(-1, 4)
                return torch.linalg.qr(boxes)[0], boxes[:, 0], boxes[:, 1]

        return Permuted()


@pytest.mark.parametrize(
    ("name", "model", "what"),
    [
        ("tracing", NoTensors(), "NoTensors cannot be traced"),
        ("onnx_torchscript", NoTensors(), "NoTensors cannot be traced"),
        ("onnx_torchscript", NoWord(), "the trace cannot be written as ONNX; got: .*linalg_qr"),
    ],
)
def test_a_model_that_cannot_be_traced_is_named(name: str, model: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=what):
        export(name, model.eval(), tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_folder_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"cannot write .*artifact; got: (File exists|Not a directory)"):
        export(name, TinyModel().eval(), tmp_path / "file" / "artifact")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", METHODS)
def test_a_full_disk_is_named_and_holds_nothing_of_the_artifact(name: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(OutputError, match=r"cannot write .*artifact; got: No space left on device"):
            export(name, TinyModel(HEAVY).eval(), disk / "artifact")
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("name", METHODS)
def test_an_older_artifact_outlives_an_export_that_fails(name: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        export(name, TinyModel().eval(), disk / "artifact")
        before = read_artifact(disk / "artifact")
        with pytest.raises(OutputError):
            export(name, TinyModel(HEAVY).eval(), disk / "artifact")
        assert read_artifact(disk / "artifact") == before
        verify_files(before, disk / "artifact")
        assert [path.name for path in disk.iterdir()] == ["artifact"]
