import errno
import hashlib
import json
from pathlib import Path

import pytest

from detexport.errors import DetexportError, OutputError
from detexport.files import atomic_dir, atomic_file, read_json, sha256_file, sha256_json, write_json, writing


class InterruptedWriting(Exception):  # noqa: N818 - what happens, not what is wrong
    pass


def write_half(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        raise InterruptedWriting


def fill_half(path: Path) -> None:
    with atomic_dir(path) as temporary:
        (temporary / "new").touch()
        raise InterruptedWriting


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.onnx"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".onnx"
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InterruptedWriting):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    for name in ("first", "second"):
        with atomic_dir(path) as temporary:
            (temporary / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_dir(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(InterruptedWriting):
        fill_half(path)
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, other = tmp_path / ".out.partial-abc", tmp_path / ".outer.partial-abc"
    for folder in (left, other):
        (folder / "sub").mkdir(parents=True)
    with atomic_dir(tmp_path / "out"):
        pass
    assert not left.exists()
    assert other.exists()


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "ä"}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value
    assert text.endswith("}\n")
    assert "ä" in text


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json(json.loads('{"b": [2], "a": 1}'))
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
    assert sha256_json((1, 2)) == sha256_json([1, 2])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(error: Exception) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write model; got: .*remedy: make room"),
        writing(Path("model")),
    ):
        raise error


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no file"), RuntimeError("shapes"), DetexportError("our own")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, writing(Path("model")):
        raise error
    assert raised.value is error
