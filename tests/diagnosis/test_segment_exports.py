"""Segments exported by the method of an artifact, with the options of its manifest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from detexport.artifact import read_artifact
from detexport.contract import TensorSpec
from detexport.diagnosis.segment_exports import (
    read_segment_exporter,
    run_segment,
    segment_contract,
    segment_exporter,
)
from detexport.errors import ArtifactError, ConfigError
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.targets.table import artifacts
from makers import maker
from tiny_artifacts import KINDS, tiny_contract, write_tiny_onnx, write_tiny_torchscript

SPECS = (
    (TensorSpec("value", "float32", ("value.0", 3), ""),),
    (TensorSpec("sums", "float32", ("sums.0",), ""), TensorSpec("halves", "float32", ("halves.0", 3), "")),
)
VALUE = np.arange(12, dtype=np.float32).reshape(4, 3)


class SumAndHalve(nn.Module):
    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0].sum(1), tensors[0] / 2]


@pytest.fixture(params=["tracing", "scripting", "onnx"])
def artifact_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "artifacts" / request.param
    if request.param == "onnx":
        write_tiny_onnx(folder)
    else:
        write_tiny_torchscript(folder, method=request.param)
    return folder


def test_a_segment_is_exported_and_run_as_its_artifact(artifact_dir: Path, tmp_path: Path) -> None:
    exporter = read_segment_exporter(artifact_dir)
    session = exporter.export(SumAndHalve(), SPECS, {"value": VALUE[:2]}, tmp_path / "made")
    assert session.artifact.method == read_artifact(artifact_dir).method
    assert session.artifact.weights_sha256 == exporter.artifact.weights_sha256
    found = run_segment(session, {"value": VALUE})  # more rows than it was recorded with
    assert list(found) == ["sums", "halves"]
    np.testing.assert_allclose(found["sums"], VALUE.sum(1))
    np.testing.assert_allclose(found["halves"], VALUE / 2)


def test_a_segments_contract_has_its_own_tensors_and_no_rule_of_the_whole() -> None:
    contract = segment_contract(tiny_contract(**KINDS["panoptic"]), *SPECS)
    assert (contract.inputs, contract.outputs, contract.panoptic) == (*SPECS, None)


def test_the_options_are_those_of_the_manifest_and_a_segment_ends_raw(tmp_path: Path) -> None:
    options = {"opset_version": 18, "exporter": "torchscript", "graph_end": "pasted"}
    artifact = write_tiny_onnx(tmp_path / "a")
    replace(artifact, options=options).save(tmp_path / "a")
    exporter = read_segment_exporter(tmp_path / "a")
    assert exporter.export_steps == (
        maker("onnx", opset_version=18, exporter="torchscript", graph_end="raw"),
    )
    assert (exporter.precision, exporter.quantization, exporter.notes) == ("", "", ())


def converted(folder: Path, method: str, source: Any) -> Path:
    artifact = write_tiny_onnx(folder)
    replace(artifact, method=method, source_sha256=source).save(folder)
    return folder


def test_a_conversion_is_made_from_its_source_with_its_options(tmp_path: Path) -> None:
    source = replace(write_tiny_onnx(tmp_path / "onnx"), options={"opset_version": 18})
    source.save(tmp_path / "onnx")
    artifact_dir = converted(tmp_path / "int8", "onnx_int8", read_artifact(tmp_path / "onnx").sha256)
    (tmp_path / "other").mkdir()
    exporter = read_segment_exporter(artifact_dir)
    assert exporter.export_steps == (maker("onnx", opset_version=18),)
    assert exporter.quantization == "onnx_int8"
    assert "the segments are those of its source, onnx, in float32" in exporter.notes[-1]
    assert len(exporter.notes) == 1


def test_a_source_that_is_absent_is_noted_and_has_default_options(tmp_path: Path) -> None:
    artifact_dir = converted(tmp_path / "alone/int8", "onnx_int8", "f" * 64)
    exporter = read_segment_exporter(artifact_dir)
    assert exporter.export_steps == (artifacts()["onnx"].maker.build(),)
    assert exporter.notes[0] == (
        "onnx_int8 was converted from an artifact that is absent: onnx has default options"
    )
    given = read_segment_exporter(artifact_dir, sources=[])
    assert given.notes == exporter.notes


def test_makers_that_are_known_need_no_manifest(tmp_path: Path) -> None:
    artifact = write_tiny_onnx(tmp_path / "a")
    exporter = segment_exporter(
        artifact, [("mine", maker("tracing", graph_end="pasted"))], OnnxRuntime(), "bf16", ["noted"]
    )
    assert exporter.export_steps == (maker("tracing", graph_end="raw"),)
    assert (exporter.precision, exporter.notes) == ("bf16", ("noted",))


def test_an_artifact_of_an_unknown_method_or_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        read_segment_exporter(tmp_path)
    artifact = write_tiny_onnx(tmp_path / "a")
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        read_segment_exporter(tmp_path / "a", target="onxx")
    replace(artifact, method="mine").save(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"unknown method .*got: mine; expected: one of .*onnx"):
        read_segment_exporter(tmp_path / "a")
