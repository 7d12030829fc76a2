"""How a command ends by a signal, and what it prints."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A command that fills a folder, and prints when it is in the middle of it.
FILLS = """
import sys, time
from pathlib import Path
from detexport.system.atomic import atomic_dir
from detexport.system.process import end_on_signals
end_on_signals()
with atomic_dir(Path("out")) as folder:
    (folder / "half").touch()
    print("at work", flush=True)
    time.sleep(60)
"""
ENDING = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]


def start(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("number", ENDING)
def test_what_a_signal_ends_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    process = start(FILLS, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (128 + number, 128 + signal.SIGHUP)
    assert errors in {
        f"error: ended by {name}; no part of a result is left behind\n" for name in (number.name, "SIGHUP")
    }
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + FILLS.replace("60", "0.5")
    process = start(code, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_signal_in_a_shielded_block_ends_the_process_after_it() -> None:
    code = """
import os, signal
from detexport.system.process import end_on_signals, shielded
end_on_signals()
with shielded():
    os.kill(os.getpid(), signal.SIGTERM)
    print("whole", flush=True)
print("not reached")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "whole\n")


@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream_is_nobody_elses(stream: int, tmp_path: Path) -> None:
    code = """
from detexport.system.process import end_on_signals
end_on_signals()
file = open("file", "w")
assert file.fileno() > 2
print("x", file=file)
"""
    command = f"{sys.executable} -c '{code}' {stream}>&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, (tmp_path / "file").read_text()) == (0, "x\n")


def test_secrets_are_redacted_whoever_prints_them() -> None:
    code = """
import sys
import traceback
from detexport.system.process import redacted_output
with redacted_output():
    print("to http://bob:s3cr", end=""), print("3t@host/x")
    sys.stderr.write("password s3cr3t"), sys.stderr.flush()
    try:
        raise RuntimeError("http://bob:s3cr3t@host")
    except RuntimeError:
        traceback.print_exc()
"""
    variables = {**os.environ, "MLFLOW_TRACKING_URI": "http://bob:s3cr3t@host"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False
    )
    assert done.stdout == "to http://host/x\n"
    assert "s3cr3t" not in done.stderr
    assert "RuntimeError: ***" in done.stderr or "RuntimeError: http://host" in done.stderr


def test_killed_runs_are_swept_wherever_they_were(tmp_path: Path) -> None:
    from detexport.system.atomic import remove_leftovers

    killed = start(FILLS, tmp_path)
    (tmp_path / "deep").mkdir()
    living = start(FILLS, tmp_path / "deep")
    for process in (killed, living):
        assert process.stdout is not None
        process.stdout.readline()
    killed.kill()
    killed.communicate()
    (left,) = remove_leftovers(tmp_path)
    assert left.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert list((tmp_path / "deep").iterdir()), "what a living run fills stays"
    living.terminate()
    living.communicate()
    time.sleep(0)
    assert list((tmp_path / "deep").iterdir()) == []
