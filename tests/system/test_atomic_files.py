import errno
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from detexport.errors import DetexportError, OutputError
from detexport.system.atomic import atomic_dir, atomic_file
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import output_errors, read_json, remove_others, write_json
from small_disk import small_disk


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


def fill(path: Path, content: str) -> None:
    with atomic_dir(path) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text(content)


def contents(path: Path) -> list[str]:
    return [(path / name).read_text() for name in ("a", "b")]


def filled_until(step: int, happens: Callable[[], None], path: Path) -> bool:
    """Fill ``path`` in a process of its own, to which something happens before its n-th change of files.

    Returns:
        whether it came to its end before.
    """
    process = os.fork()
    if process == 0:
        steps = count()

        def before(event: str, _arguments: tuple[Any, ...]) -> None:
            changes = event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "open", "fcntl.flock")
            if changes and next(steps) == step:
                happens()

        sys.addaudithook(before)
        try:
            fill(path, "new")
        except InterruptedWriting:
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1] == 0


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fails() -> None:
    raise InterruptedWriting


@pytest.mark.parametrize("happens", [is_killed, fails])
@pytest.mark.parametrize("there_before", [True, False])
def test_whenever_a_run_ends_nothing_finished_is_lost_and_the_next_run_tidies_up(
    tmp_path: Path, happens: Callable[[], None], there_before: bool
) -> None:
    for step in count():
        path = tmp_path / str(step) / "out"
        if there_before:
            fill(path, "old")
        finished = filled_until(step, happens, path)
        if happens is fails and there_before:
            assert contents(path) in (["old"] * 2, ["new"] * 2), step
        with pytest.raises(InterruptedWriting):
            fill_half(path)
        if there_before or path.exists():
            assert contents(path) in (["old"] * 2, ["new"] * 2), step
        assert list(path.parent.iterdir()) == [path] * path.exists(), step
        if finished:
            break
    assert contents(path) == ["new"] * 2
    assert step > 10


def test_of_two_runs_at_once_each_keeps_its_work_and_the_last_one_stays(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    with atomic_file(file) as temporary, atomic_dir(folder) as partial:
        (partial / "a").write_text("last")
        temporary.write_text("last")
        fill(folder, "first")
        with atomic_file(file) as other:
            other.write_text("first")
        assert (file.read_text(), contents(folder)) == ("first", ["first"] * 2)
        (partial / "b").write_text("last")
    assert (file.read_text(), contents(folder)) == ("last", ["last"] * 2)
    assert sorted(tmp_path.iterdir()) == [file, folder]


def refuse(path: Path, got: str) -> None:
    with pytest.raises(OutputError, match=f"cannot be replaced; got: .*{got}"), atomic_dir(path):
        pytest.fail("before any work")


def test_a_folder_whose_place_nothing_can_take_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "..", "/", "../here", tmp_path / "here"):
        refuse(Path(path), "the working folder of this process, or one above it")
    refuse(tmp_path / "file", "file, a file")
    refuse(tmp_path / "loop", "loop, a file")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["file", "here", "loop"]
    with small_disk(tmp_path / "disk") as disk:
        refuse(disk, "a folder that a file system is mounted on")


def test_a_link_leads_to_the_folder_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "real"
    fill(path, "old")
    (tmp_path / "link").symlink_to(path)
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert contents(path) == ["new"] * 2
    assert list(path.parent.iterdir()) == [path]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "ä"}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value
    assert text.endswith("}\n")
    assert "ä" in text


def test_what_is_not_named_is_removed_but_not_what_is_being_written(tmp_path: Path) -> None:
    for name in ("kept", "other", ".kept.partial-abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "other.json").touch()
    assert sorted(remove_others(tmp_path, {"kept"})) == [tmp_path / "other", tmp_path / "other.json"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".kept.partial-abc", "file", "file", "kept"]
    assert remove_others(tmp_path / "nowhere", {"kept"}) == []


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
        output_errors(Path("model")),
    ):
        raise error


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no file"), RuntimeError("shapes"), DetexportError("our own")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, output_errors(Path("model")):
        raise error
    assert raised.value is error
