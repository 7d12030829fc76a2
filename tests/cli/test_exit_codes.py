"""0 done and passed, 1 a verdict that failed, 2 a wrong request, 3 something broke: of every command."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from running import Run

from detexport.cli import EXIT_CODES, app, run_command
from detexport.errors import (
    TRACEBACK,
    ArtifactError,
    CheckpointError,
    DetexportError,
    DiskError,
    ExportError,
    OutOfMemoryError,
    RuntimeUnavailableError,
)

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "src/detexport/data/sample.png"
CONFIG, WEIGHTS = ROOT / "conf/detectron2/faster_rcnn.yaml", ROOT / "checkpoints/faster_rcnn.safetensors"
ENDS = {
    "export": "make",
    "predict": "predict",
    "validate": "validate",
    "diagnose": "diagnose",
    "inspect": "inspect",
    "doctor": "doctor",
    "promote": "promote",
    "rollback": "rollback",
    "verify": "verify",
    "serve": "serve",
    "package": "write_package",
}
MODULES = {"rollback": "promote"}
"""Modules of commands that do not have one of their name."""
COMMANDS = sorted(ENDS)


def arguments(command: str, artifact: Path) -> list[str]:
    """A request of each command that is not wrong."""
    if command == "export":
        options = ["--config-file", CONFIG, "--weights", WEIGHTS, "--target", "tracing", "--output", "made"]
        return ["export", *map(str, options)]
    if command == "doctor":
        return ["doctor"]
    if command == "verify":
        return ["verify", "models:/mask_rcnn-onnx/1"]
    if command == "package":
        return ["package", str(artifact), "--output", "made"]
    if command in ("promote", "rollback"):
        return [command, "mask_rcnn-onnx"]
    if command == "diagnose":
        return ["diagnose", str(artifact), "--config-file", str(CONFIG), "--weights", str(WEIGHTS)]
    if command == "validate":
        (artifact.parent / "data/images").mkdir(parents=True, exist_ok=True)
        (artifact.parent / "data/annotations").mkdir(exist_ok=True)
        return [
            "validate",
            str(artifact),
            "--against",
            str(artifact),
            "--data",
            str(artifact.parent / "data"),
        ]
    return [command, str(artifact), *([str(IMAGE)] if command == "predict" else [])]


def end_with(monkeypatch: pytest.MonkeyPatch, command: str, outcome: Any) -> None:
    """Let a command's work, which begins once its request was checked, return or raise ``outcome``."""

    def work(*_: Any, **__: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module: Any = SimpleNamespace(**{ENDS[command]: work, "report": work})
    monkeypatch.setitem(sys.modules, f"detexport.cli.{MODULES.get(command, command)}", module)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.delenv(TRACEBACK, raising=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_does_its_work_ends_with_0(
    command: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_with(monkeypatch, command, SimpleNamespace(passed=True, diverges=False))
    assert run_command(arguments(command, tiny_onnx)) == 0


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ("export", ExportError("it does not compute what the model computes")),
        ("validate", SimpleNamespace(passed=False)),
        ("diagnose", SimpleNamespace(diverges=True)),
        ("inspect", ArtifactError("it is not what was exported")),
        ("doctor", False),
        ("promote", False),
    ],
)
def test_a_verdict_that_failed_is_1(
    command: str, outcome: Any, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_with(monkeypatch, command, outcome)
    assert run_command(arguments(command, tiny_onnx)) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_request_is_2(
    command: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command == "doctor" or run_command([command]) == 2
    assert run_command([*arguments(command, tiny_onnx), "--no-such-option"]) == 2
    assert "No such option: --no-such-option" in capsys.readouterr().err
    end_with(monkeypatch, command, CheckpointError("the file is none"))
    assert run_command(arguments(command, tiny_onnx)) == 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeUnavailableError("there is no such engine"),
        OutOfMemoryError("there is not enough memory"),
        DiskError("there is no room"),
        ValueError("nobody\nforesaw this"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_broke_is_3_and_one_line(
    command: str,
    error: Exception,
    tiny_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    end_with(monkeypatch, command, error)
    assert run_command(arguments(command, tiny_onnx)) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert ("DETEXPORT_TRACEBACK=1" in said) is not isinstance(error, DetexportError)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interruption_is_130(command: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(monkeypatch, command, KeyboardInterrupt())
    assert run_command(arguments(command, tiny_onnx)) == 128 + signal.SIGINT


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_names_the_codes_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert " ".join(EXIT_CODES.split()) in " ".join(shown.split())
    assert f"    detexport {command}" in shown


def test_no_command_prints_the_help_and_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) == 2
    assert "Usage: detexport" in capsys.readouterr().out


def test_every_command_is_tried() -> None:
    commands: Any = typer.main.get_command(app)
    assert sorted(commands.commands) == COMMANDS


def test_an_artifact_that_was_changed_fails_its_inspection_and_is_no_right_input(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(tiny_onnx, tmp_path / "changed")
    with (changed / "model.onnx").open("ab") as file:
        file.write(b"more")
    assert run_command(["inspect", str(tiny_onnx)]) == 0
    assert run_command(["inspect", str(changed)]) == 1
    assert run_command(["predict", str(changed), str(IMAGE)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line[:7] for line in said] == ["error: "] * 2


def test_a_device_that_is_not_there_is_3(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime knows CUDA devices")
    assert run_command(["predict", str(tiny_onnx), str(IMAGE), "--device", "cuda"]) == 3
    assert "ONNX Runtime cannot run on 'cuda'" in capsys.readouterr().err


def test_a_full_standard_output_is_3(tiny_onnx: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "detexport.cli", "inspect", str(tiny_onnx), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr.startswith("error: cannot write the standard output; got: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error(tiny_onnx: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "detexport.cli", "inspect", str(tiny_onnx)],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""


def test_a_file_name_that_is_no_text_is_printed_in_json_as_it_is_read_back(
    run: Run, tiny_onnx: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"pict\xffure.png")
    shutil.copy(IMAGE, tmp_path / name)
    done = run("predict", tiny_onnx, name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["image"] == name
