"""A server in a process of its own, and what the tests send to it."""

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tiny_artifacts import tiny_image

ROOT = Path(__file__).parents[2]


def png(image: np.ndarray | None = None) -> bytes:
    """An image (3, height, width) as a PNG file."""
    encoded = io.BytesIO()
    Image.fromarray((tiny_image() if image is None else image).transpose(1, 2, 0)).save(encoded, "PNG")
    return encoded.getvalue()


def base64_of(encoded: bytes) -> str:
    return base64.b64encode(encoded).decode()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass
class Running:
    """A server that runs; ``port`` on the loopback address; ``printed`` before its address."""

    process: subprocess.Popen[str]
    port: int
    printed: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: bytes, kind: str = "image/png") -> Answer:
        return self.ask("POST", path, body, content_type=kind)

    def post_json(self, path: str, document: Any) -> Answer:
        return self.post(path, json.dumps(document).encode(), "application/json")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and what was printed to the standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextlib.contextmanager
def running(source: object, *options: str, **environment: str) -> Iterator[Running]:
    """Serve an artifact in its own process; wait until it is ready."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "detexport.cli", "serve", str(source), "--port", "0", *options],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        while not (line := process.stderr.readline()).startswith("http://"):
            lines.append(line)
            assert line, "".join(lines)
        server = Running(process, int(line.split()[0].rpartition(":")[2]), lines)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def multipart(*parts: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """A form of (field, file name or "", content), and its content type."""
    lines = []
    for field, file, content in parts:
        name = f'; filename="{file}"' if file else ""
        lines += [
            f'--edge\r\nContent-Disposition: form-data; name="{field}"{name}\r\n\r\n'.encode(),
            content,
            b"\r\n",
        ]
    return b"".join([*lines, b"--edge--\r\n"]), "multipart/form-data; boundary=edge"


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
