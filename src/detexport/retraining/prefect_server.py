"""Prefect's server, for schedules without an existing installation; it imports no Prefect."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from detexport.errors import RuntimeUnavailableError
from detexport.system.extras import require_packages

ADDRESS = "PREFECT_API_URL"
"""The environment variable that names the server; Prefect reads it when it is imported."""
START_S = 600.0
"""Time in seconds that the first start may take, which creates a database."""


@contextmanager
def prefect_server(port: int) -> Iterator[str]:
    """Yield the address of the server of ``PREFECT_API_URL``; without one, run a server during the block.

    Args:
        port: of the server that is started, on the loopback interface.

    Raises:
        MissingPackageError: Prefect is not installed.
        RuntimeUnavailableError: the server does not start, or another program uses the port.
    """
    require_packages("prefect")
    if os.environ.get(ADDRESS):
        yield os.environ[ADDRESS]
        return
    check_port(port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(process, port)
        os.environ[ADDRESS] = f"http://127.0.0.1:{port}/api"
        yield os.environ[ADDRESS]
    finally:
        os.environ.pop(ADDRESS, None)
        process.terminate()
        process.wait()


def check_port(port: int) -> None:
    """Check that no program listens on a port: another Prefect there would serve the flow.

    Raises:
        RuntimeUnavailableError: one does, or the port cannot be used.
    """
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise RuntimeUnavailableError(
            f"the port {port} cannot be used for Prefect's server",
            got=error.strerror,
            expected="a free port of 127.0.0.1",
            remedy=f"choose another --port, or name the running server in {ADDRESS}",
        ) from error


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
            return
        time.sleep(0.5)
    raise RuntimeUnavailableError(
        "Prefect's server does not start",
        got=f"exit code {process.poll()}" if process.poll() is not None else f"no answer in {START_S:g} s",
        expected=f"an answer on port {port}",
        remedy=f"choose another --port, or name a server in {ADDRESS}",
    )
