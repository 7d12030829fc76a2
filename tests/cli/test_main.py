"""The command line as a whole: its start, its help, its errors."""

import subprocess
import sys
from pathlib import Path

import pytest
from running import Run

from detexport import __version__

HEAVY = ("torch", "torchvision", "numpy", "onnxruntime", "openvino", "rich")


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['detexport', '--help']\n"
        "from detexport.cli import main\n"
        "try: main()\n"
        f"finally: print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    assert "detexport export --config-file" in done.stdout


@pytest.mark.parametrize("command", ["export", "predict", "inspect"])
def test_each_command_explains_itself_by_an_example(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"\n    detexport {command} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "--target", "onnx"], 2, "Missing option '--config-file'"),
        (["export", "--config-file", "c", "--output", "o", "--target", "no"], 2, "error: unknown target"),
        (["predict", "nothing", "nothing.png"], 2, "error: there is no such image"),
        (["inspect", "nothing"], 2, "error: nothing is not an artifact"),
    ],
)
def test_a_mistake_is_told_in_a_line_without_a_trace(
    run: Run, arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_that_of_the_package(run: Run) -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"detexport {__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(run: Run, shell: str) -> None:
    script = run("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0, script.stderr
    assert "_DETEXPORT_COMPLETE" in script.stdout


def test_the_completion_lists_commands_and_options(run: Run) -> None:
    # As the script of --show-completion asks for it.
    ask = {"_DETEXPORT_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert run(**ask, COMP_WORDS="detexport pre").stdout.split() == ["predict"]
    assert "--target" in run(**ask | {"COMP_CWORD": "2"}, COMP_WORDS="detexport export --t").stdout.split()
