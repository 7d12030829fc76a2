import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detexport.artifact import MANIFEST, Artifact, Format, read_artifact, verify_files
from detexport.errors import ArtifactError
from detexport.files import sha256_file
from tiny_artifacts import tiny_contract


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "weights.bin").write_bytes(b"weights")
    names = ("model.onnx", "weights.bin")
    value = Artifact(
        format=Format.ONNX,
        method="onnx",
        options={"opset_version": 18},
        main_file="model.onnx",
        files={name: sha256_file(tmp_path / name) for name in names},
        contract=tiny_contract(),
        batch="1",
        graph_end="raw",
        weights_sha256="a" * 64,
        config_sha256="b" * 64,
        versions={"torch": "2.15"},
    )
    value.save(tmp_path)
    return value


def test_what_is_saved_is_read_back(artifact: Artifact, tmp_path: Path) -> None:
    again = read_artifact(tmp_path)
    assert again == artifact
    assert again.sha256 == artifact.sha256
    assert again.format is Format.ONNX
    verify_files(again, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"model.onnx": "0" * 64}},
        {"contract": tiny_contract(score_threshold=0.1)},
        {"options": {}},
        {"weights_sha256": "c" * 64},
        {"format": Format.TORCHSCRIPT},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_is_of_everything(change: dict[str, Any], artifact: Artifact) -> None:
    assert replace(artifact, **change).sha256 != artifact.sha256


@pytest.mark.parametrize("file", ["model.onnx", "weights.bin"])
def test_a_changed_or_missing_file_is_named(file: str, artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"other")
    with pytest.raises(ArtifactError, match=f"{file} is not the file that was exported"):
        verify_files(artifact, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactError, match=f"{file} .*no such file"):
        verify_files(artifact, tmp_path)


def test_the_main_file_needs_a_digest(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"anything")
    with pytest.raises(ArtifactError, match=r"has no digest; got: other\.onnx"):
        verify_files(replace(artifact, main_file="other.onnx"), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: [value],
        lambda value: None,
        lambda value: {**value, "format": "GGUF"},
        lambda value: {**value, "more": 1},
        lambda value: {k: v for k, v in value.items() if k != "files"},
        lambda value: {**value, "contract": {}},
        lambda value: {**value, "contract": {**value["contract"], "inputs": "image"}},
        lambda value: {**value, "contract": {**value["contract"], "resize": None}},
    ],
)
def test_a_manifest_that_is_none(damage: Any, artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(damage(artifact.to_json())))
    with pytest.raises(ArtifactError, match="is not an artifact"):
        read_artifact(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"files": ["model.onnx"]},
        {"files": {"model.onnx": 1}},
        {"options": []},
        {"main_file": None},
        {"versions": "2.15"},
        {"weights_sha256": True},
        {"image_sides": [1]},
        {"image_sides": ["1", "2"]},
        {"format": ["ONNX"]},
        {"contract.pixel_mean": "123"},
        {"contract.class_names": "abc"},
        {"contract.channel_order": "GRB"},
        {"contract.score_threshold": "0.5"},
        {"contract.panoptic": []},
        {"contract.inputs": [{"name": "image", "dtype": "uint8", "shape": [3, None, 1], "meaning": ""}]},
    ],
    ids=str,
)
def test_a_field_that_holds_something_else_is_named(
    change: dict[str, Any], artifact: Artifact, tmp_path: Path
) -> None:
    value = artifact.to_json()
    ((name, other),) = change.items()
    (value["contract"] if "." in name else value)[name.rpartition(".")[2]] = other
    (tmp_path / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match=rf"is not an artifact; got: ValueError: artifact\.json\.{name}"):
        read_artifact(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_a_missing_or_broken_manifest(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is not an artifact.*artifact.json"):
        read_artifact(tmp_path)
