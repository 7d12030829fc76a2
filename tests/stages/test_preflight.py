"""What `make repro` looks at before DVC runs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import preflight


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DVC's notes in a scratch folder."""
    path = tmp_path / "rwlock"
    monkeypatch.setattr(preflight, "LOCKS", path)
    return path


def write(notes: Path, pid: int) -> None:
    entry = {"pid": pid, "cmd": "dvc repro"}
    notes.write_text(json.dumps({"/data": {"write": entry}, "/conf": {"read": [entry]}}))


def test_a_process_that_is_gone_holds_nothing(notes: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    write(notes, process.pid)
    assert preflight.holders() == set()


def test_a_process_that_lives_is_found(notes: Path) -> None:
    write(notes, os.getpid())
    assert preflight.holders() == {os.getpid()}


def test_a_killed_process_is_found_until_it_is_reaped(notes: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    write(notes, process.pid)
    process.kill()
    assert preflight.holders() == {process.pid}
    process.wait()
    assert preflight.holders() == set()


@pytest.mark.parametrize("content", [None, "", "{", "{}"])
def test_no_notes_hold_nothing(notes: Path, content: str | None) -> None:
    if content is not None:
        notes.write_text(content)
    assert preflight.holders() == set()


@pytest.mark.parametrize(("content", "expected"), [(None, False), ("{}", False), ("", True), ("{", True)])
def test_notes_cut_short_are_broken(notes: Path, content: str | None, expected: bool) -> None:
    if content is not None:
        notes.write_text(content)
    assert preflight.broken() is expected


def test_a_run_that_was_killed_while_it_wrote_its_notes_does_not_block_the_next(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    notes.write_text("")
    preflight.main()
    assert not notes.exists()


def test_what_killed_runs_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = [
        tmp_path / "outputs/models/gone/artifacts/.onnx.partial-abc",
        tmp_path / "reports/.index.html.partial-abc",
        tmp_path / "data/deep/.shapes.partial-abc",
    ]
    kept = tmp_path / "outputs/models/gone/artifacts/onnx/model.onnx"
    for folder in [*left, kept.parent]:
        (folder / "new").mkdir(parents=True)
    (left[2] / "old").mkdir()
    kept.touch()
    preflight.sweep()
    assert not [folder for folder in left if folder.exists()]
    assert kept.is_file()
    assert (tmp_path / "data/deep/shapes").is_dir(), "what was set aside for it is back"
