"""A function as a command: its options, its exit codes, what it prints when it fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detexport.errors import BROKEN, REQUEST, VERDICT

COMMAND = """
import os, signal, sys
from pathlib import Path
from detexport.errors import DetexportError, ConfigError, RuntimeUnavailableError
from detexport.system.atomic import atomic_dir
from detexport.system.script import run

class Failed(DetexportError):
    exit_code = 1

def main(save_dir: Path, what: str = "nothing", times: int = 1) -> None:
    \"\"\"Do what is asked for.\"\"\"
    {body}

if __name__ == "__main__":
    run(main{options})
"""


def command(
    folder: Path, body: str, *arguments: str, options: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    file = folder / "command.py"
    file.write_text(COMMAND.format(body=body, options=options))
    return subprocess.run(
        [sys.executable, file, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_arguments_and_options_are_those_of_the_function(tmp_path: Path) -> None:
    show = "print(repr(save_dir), what, times)"
    done = command(tmp_path, show, "out", "--what", "a", "--times", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{Path('out')!r} a 3\n", "")


@pytest.mark.parametrize("arguments", [[], ["out", "--times", "many"], ["out", "--wat", "a"]])
def test_wrong_arguments_are_an_invalid_request(tmp_path: Path, arguments: list[str]) -> None:
    done = command(tmp_path, "print('began')", *arguments)
    assert (done.returncode, done.stdout) == (REQUEST, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [("Failed", VERDICT), ("ConfigError", REQUEST), ("RuntimeUnavailableError", os.EX_UNAVAILABLE)],
)
def test_an_error_of_the_user_is_one_line_and_the_exit_code_of_its_class(
    tmp_path: Path, error: str, code: int
) -> None:
    done = command(tmp_path, f"raise {error}('no such runtime', got='x')", "out")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "error: no such runtime; got: x\n"


def test_an_error_of_ours_keeps_its_trace(tmp_path: Path) -> None:
    done = command(tmp_path, "{}.nothing", "out")
    assert (done.returncode, done.stdout) == (BROKEN, "")
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("AttributeError: 'dict' object has no attribute 'nothing'\n")


@pytest.mark.parametrize("body", ["raise ConfigError(os.environ['A_PASSWORD'])", "1 / 0"])
def test_a_secret_of_the_environment_is_not_printed(tmp_path: Path, body: str) -> None:
    printed = f"print(os.environ['A_PASSWORD']); {body}"
    done = command(tmp_path, printed, "out", A_PASSWORD="hunter2hunter2")
    assert done.returncode in (REQUEST, BROKEN)
    assert "hunter2hunter2" not in done.stdout + done.stderr


def test_a_signal_leaves_no_partial_output(tmp_path: Path) -> None:
    body = "with atomic_dir(save_dir) as folder: (folder / 'half').touch(); os.kill(os.getpid(), 15)"
    done = command(tmp_path, body, "out")
    assert done.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["command.py"]


@pytest.mark.parametrize("seed", ["random", "7", "0"])
def test_fixed_hashes_restart_the_command_with_its_arguments(tmp_path: Path, seed: str) -> None:
    show = "print(sys.flags.hash_randomization, hash('a'), what)"
    done = command(tmp_path, show, "out", "--what", "b", options=", fixed_hashes=True", PYTHONHASHSEED=seed)
    expected = command(tmp_path, show, "out", "--what", "b", PYTHONHASHSEED="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected.stdout
    assert done.stdout.startswith("0 ")
