"""What `make repro` looks at before DVC runs."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

import preflight
from detexport.reference.resume import Nothing, Progress, progress_folder
from detexport.system.environment import describe_environment
from detexport.system.files import write_json


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


def test_the_description_of_another_environment_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(preflight.ENVIRONMENT, describe_environment())
    preflight.remove_other_environment()
    assert preflight.ENVIRONMENT.is_file()
    write_json(preflight.ENVIRONMENT, describe_environment() | {"python": "3.9.0"})
    preflight.remove_other_environment()
    assert not preflight.ENVIRONMENT.exists()
    assert "artifacts are exported again: python 3.9.0 -> " in capsys.readouterr().out


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
    preflight.sweep(())
    assert not [folder for folder in left if folder.exists()]
    assert kept.is_file()
    assert (tmp_path / "data/deep/shapes").is_dir(), "what was set aside for it is back"


def test_params_that_a_killed_run_was_about_to_write_are_swept_from_the_root_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    left, kept = tmp_path / ".params.yaml.partial-abc", tmp_path / "mine/.notes.partial-abc"
    for folder in (left, kept):
        (folder / "new").mkdir(parents=True)
    preflight.sweep(())
    assert not left.exists()
    assert kept.exists()


def test_the_progress_of_a_job_that_is_not_asked_for_any_more_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parity = tmp_path / "outputs/models/m/parity"
    folders = {name: progress_folder(parity / f"{name}.json") for name in ("asked", "gone", "living")}
    for name in ("asked", "gone"):
        with suppress(KeyboardInterrupt), Progress(folders[name], "k", name) as progress:
            progress.once("a", Nothing, Nothing)
            raise KeyboardInterrupt
    with Progress(folders["living"], "k", "living"):
        preflight.sweep({"asked"})
        assert [name for name, folder in folders.items() if folder.exists()] == ["asked", "living"]
    with Progress(folders["asked"], "k", "asked") as progress:
        assert list(progress.kept) == ["a"]
