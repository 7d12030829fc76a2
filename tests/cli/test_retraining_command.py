"""``detexport-job``: what it accepts, and its errors; tests/retraining runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detexport.cli import run_command
from detexport.cli.retraining import EXIT_CODES, NAME, app


def run_job(*arguments: str) -> int:
    return run_command(arguments, app, NAME)


@pytest.mark.parametrize("command", ["retrain", "schedule"])
def test_the_help_says_what_the_exit_codes_mean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: detexport-job {command}")
    assert " ".join(EXIT_CODES.split()) in " ".join(shown.split())
    assert run_job() == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retrain", "--no-such-option"], "detexport-job retrain --help"),
        (["retrain", "--project", "nowhere"], "is not a project with a pipeline"),
        (["retrain", "--notify", "hooks.example.com"], "not one of HTTP"),
        (["retrain", "--timeout", "0"], "--timeout"),
        (["retrian"], "retrian"),
        (["schedule", "--cron", "* * * * *", "--project", "nowhere"], "is not a project with a pipeline"),
        (["schedule", "--cron", "* * * * *", "--retries", "-1"], "--retries"),
    ],
)
def test_a_wrong_request_is_one_error(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_job(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_it_is_a_program() -> None:
    command = [sys.executable, "-m", "detexport.cli.retraining", "retrain", "--project", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {os.devnull} is not a project with a pipeline")
