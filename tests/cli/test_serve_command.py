"""`detexport serve`: wrong requests end before a server starts; a right one prints where it listens."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running import Run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nothing"], "nothing is not an artifact"),
        (["{onnx}", "--target", "onxx"], "did you mean 'onnx'"),
        (["{onnx}", "--target", "tracing"], "does not run artifacts of this format"),
        (["{onnx}", "--device", "gpu"], "unknown device"),
        (["{onnx}", "--port", "70000"], "'--port': Input should be less than or equal to 65535"),
        (["{onnx}", "--workers", "0"], "greater than or equal to 1"),
        (["{onnx}", "--host", "256.1.1.1", "--port", "0"], "cannot listen on 256.1.1.1"),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(
    run: Run, tiny_onnx: Path, options: list[str], words: str
) -> None:
    done = run("serve", *(option.format(onnx=tiny_onnx) for option in options))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_prints_where_it_listens_and_ends_with_0(tiny_onnx: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "detexport.cli", "serve", str(tiny_onnx), "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "ONNX, outputs: instances, sha256" in line
    last = process.stderr.readline()
    with socket.create_connection(("127.0.0.1", int(line.split()[0].rpartition(":")[2]))):
        process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    assert last.startswith("ready after ")
    assert rest == ""
