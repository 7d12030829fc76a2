import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detexport.artifact import MANIFEST, Artifact, Format, read_artifact, read_verified, verify_files
from detexport.errors import ArtifactError, DetexportError
from detexport.system.digests import sha256_file
from tiny_artifacts import tiny_contract

PANOPTIC = ("overlap_threshold", "stuff_area_limit", "instances_score_threshold")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09")  # a model of ir_version 9, and nothing else
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
    with pytest.raises(ArtifactError, match=r"main_file: 'other\.onnx' has no digest"):
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


def set_up(folder: Path, path: str, kind: str) -> None:
    """Put something that no manifest lists into a folder."""
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        place.write_bytes(b"x")
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(kind)


@pytest.mark.parametrize(
    ("path", "kind", "named"),
    [
        ("evil.py", "file", "evil.py"),
        (".hidden", "file", ".hidden"),
        ("__pycache__/model.pyc", "file", "__pycache__/"),
        ("deep/er/file", "file", "deep/"),
        ("empty", "folder", "empty/"),
        ("pipe", "pipe", "pipe"),
        ("link", "/etc/passwd", "link, a symbolic link"),
        ("loop", ".", "loop, a symbolic link"),
        ("a\nb", "file", r"'a\\nb'"),
    ],
)
def test_a_folder_holds_nothing_but_the_listed_files(
    path: str, kind: str, named: str, artifact: Artifact, tmp_path: Path
) -> None:
    set_up(tmp_path, path, kind)
    with pytest.raises(ArtifactError, match=rf"holds files that its manifest does not list; got: {named}; "):
        verify_files(artifact, tmp_path)


def test_a_listed_file_is_no_link(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").rename(tmp_path.parent / f"{tmp_path.name}.bin")
    (tmp_path / "weights.bin").symlink_to(tmp_path.parent / f"{tmp_path.name}.bin")
    with pytest.raises(ArtifactError, match=r"weights\.bin, a symbolic link"):
        verify_files(artifact, tmp_path)


def test_listed_files_may_be_in_folders(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "weights.bin").rename(tmp_path / "data/deep/weights.bin")
    names = ("model.onnx", "data/deep/weights.bin")
    moved = replace(artifact, files={name: sha256_file(tmp_path / name) for name in names})
    moved.save(tmp_path)
    assert read_verified(tmp_path) == moved
    (tmp_path / "data" / "other").touch()
    with pytest.raises(ArtifactError, match="got: data/other; "):
        read_verified(tmp_path)


def test_many_unlisted_files_are_counted(artifact: Artifact, tmp_path: Path) -> None:
    for index in range(50):
        (tmp_path / f"{index:02}").touch()
    with pytest.raises(ArtifactError, match=r"got: 00, 01, 02, and 47 more; ") as raised:
        verify_files(artifact, tmp_path)
    assert len(str(raised.value)) <= 500


@pytest.mark.parametrize(
    "name",
    ["../out", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "", "a\\b", "C:a", "a\0b", "a\nb", MANIFEST],
)
def test_no_path_leads_out_of_the_folder(name: str, artifact: Artifact, tmp_path: Path) -> None:
    value = artifact.to_json()
    for changed in (
        {"files": {**value["files"], name: "0" * 64}},
        {"files": {**value["files"], name: "0" * 64}, "main_file": name},
    ):
        (tmp_path / MANIFEST).write_text(json.dumps({**value, **changed}))
        with pytest.raises(ArtifactError, match=r"artifact\.json\.files: "):
            read_artifact(tmp_path)


@pytest.mark.parametrize(
    "location", ["other.bin", "../weights.bin", "/etc/passwd", "./weights.bin", "*/_ORT_MEM_ADDR_/*"]
)
def test_external_data_needs_a_digest(location: str, tiny_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx / "model.onnx")
    folder = tmp_path / "artifact"
    folder.mkdir()
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    names = ("model.onnx", "weights.bin")
    listed = replace(read_artifact(tiny_onnx), files={name: sha256_file(folder / name) for name in names})
    listed.save(folder)
    assert read_verified(folder) == listed, "data that is listed is fine"
    for tensor in (model := onnx.load(folder / "model.onnx", load_external_data=False)).graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    changed = replace(listed, files={name: sha256_file(folder / name) for name in names})
    changed.save(folder)
    with pytest.raises(ArtifactError, match="reads files that its manifest does not list") as raised:
        read_verified(folder)
    assert f"external data in {location}; " in str(raised.value)


def test_the_weights_of_an_ir_are_listed(tiny_openvino: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_openvino, tmp_path / "ir"))
    artifact = read_verified(folder)
    assert set(artifact.files) == {"model.xml", "model.bin"}
    (folder / "model.bin").unlink()
    without = replace(artifact, files={"model.xml": artifact.files["model.xml"]})
    without.save(folder)
    with pytest.raises(ArtifactError, match=r"files: model\.bin has no digest; OpenVINO IR needs it"):
        read_artifact(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"contract.class_names": ["a"], "contract.num_classes": 3}, r"class_names: 1, expected 3"),
        ({"contract.pixel_std": [0, 1, 1]}, "pixel_std: "),
        ({"contract.size_divisibility": -1}, "size_divisibility: "),
        ({"contract.resize": {"min_size": -1, "max_size": 1}}, "resize: "),
        ({"contract.panoptic": dict.fromkeys(PANOPTIC, 1)}, "panoptic: needs pred_masks and sem_seg"),
        ({"image_sides": [2, 1]}, "image_sides: "),
        ({"graph_end": "pasted"}, "graph_end: "),
        ({"batch": "2"}, "batch: "),
        ({"files": {"model.onnx": "0"}}, "files.model.onnx: "),
    ],
    ids=str,
)
def test_a_manifest_does_not_contradict_itself(
    change: dict[str, Any], named: str, artifact: Artifact, tmp_path: Path
) -> None:
    value = artifact.to_json()
    for name, other in change.items():
        (value["contract"] if "." in name else value)[name.rpartition(".")[2]] = other
    (tmp_path / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match=rf"artifact\.json\.(contract\.)?{named}"):
        read_artifact(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 5_000 + b"]" * 5_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"9" * 5_000,
        b"NaN",
        b'"' + b"x" * 10_000_000 + b'"',
    ],
    ids=["lists", "objects", "digits", "NaN", "long"],
)
def test_a_hostile_manifest_is_an_error_of_one_short_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match="is not an artifact") as raised:
        read_artifact(tmp_path)
    assert len(str(raised.value)) <= 500
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_manifest_that_never_ends_is_not_read(kind: str, tmp_path: Path) -> None:
    set_up(tmp_path, MANIFEST, kind)
    with pytest.raises(ArtifactError, match="is not a file"):
        read_artifact(tmp_path)


def mutated(value: Any) -> st.SearchStrategy[Any]:
    """A manifest in which some values are others, are missing, or have been added to."""
    odd = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["../x", "a\0b", "\ud800", "9" * 400, 10**400, -1, 2**70]),
        st.recursive(st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
    )
    if isinstance(value, dict):
        same = st.fixed_dictionaries({name: mutated(item) for name, item in value.items()})
        fewer = (
            st.sets(st.sampled_from(sorted(value))).map(
                lambda names: {name: item for name, item in value.items() if name not in names}
            )
            if value
            else odd
        )
        more = st.builds(lambda name, item: {**value, name: item}, st.text(max_size=8), odd)
    elif isinstance(value, list):
        same = st.tuples(*map(mutated, value)).map(list)
        fewer, more = st.just(value[1:]), odd.map(lambda item: [*value, item])
    else:
        same = fewer = more = st.just(value)
    # Mostly the value itself: a manifest with one fault gets further than one with fifty.
    return st.integers(0, 40).flatmap(lambda chance: {0: odd, 1: fewer, 2: more}.get(chance, same))


def read_mutated(value: Any, folder: Path) -> None:
    """Read what was made of a manifest: an artifact, or one error of one short line."""
    text = json.dumps(value)
    (folder / MANIFEST).write_text(text)
    start = time.monotonic()
    try:
        artifact = read_artifact(folder)
        assert Artifact(**{field: getattr(artifact, field) for field in artifact.__dataclass_fields__})
        assert len(artifact.sha256) == 64
        verify_files(artifact, folder)
    except DetexportError as error:
        length = len(str(error))
        assert length <= 1_000
    assert time.monotonic() - start < 5


def test_whatever_a_manifest_says_is_an_artifact_or_an_error(artifact: Artifact, tmp_path: Path) -> None:
    @settings(max_examples=200, deadline=None)
    @given(value=mutated(json.loads(json.dumps(artifact.to_json()))))
    def check(value: Any) -> None:
        read_mutated(value, tmp_path)

    check()


@pytest.mark.slow
def test_thousands_of_manifests(artifact: Artifact, tmp_path: Path) -> None:
    @settings(max_examples=5_000, deadline=None)
    @given(value=mutated(json.loads(json.dumps(artifact.to_json()))))
    def check(value: Any) -> None:
        read_mutated(value, tmp_path)

    check()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_whatever_bytes_a_manifest_has_are_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError):
        read_artifact(tmp_path)
