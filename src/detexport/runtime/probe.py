"""Find the runtimes that are installed and work, each in its own process.

Importing a runtime that is broken, or built for another CPU, may crash the process.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from detexport.artifact import Format
from detexport.errors import MissingPackageError
from detexport.runtime import DEFAULT_ENGINES
from detexport.system.class_source import class_attribute, required_packages
from detexport.system.extras import require_packages
from detexport.system.json_values import decode, parse_json

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class KnownRuntime:
    """A runtime of artifacts.

    Args:
        engine: dotted path of a class that runs artifacts in it.
        module: the module of detexport whose ``find_devices()`` lists its devices.
    """

    engine: str
    module: str

    @property
    def name(self) -> str:
        """Its usual name."""
        name: str = class_attribute(self.engine, "engine")
        return name

    @property
    def packages(self) -> tuple[str, ...]:
        """The modules that it consists of; the first one's version is the runtime's."""
        return required_packages(self.engine)


RUNTIMES = (
    KnownRuntime(DEFAULT_ENGINES[Format.TORCHSCRIPT], "detexport.runtime.torch_session"),
    KnownRuntime(DEFAULT_ENGINES[Format.ONNX], "detexport.runtime.onnxruntime"),
    KnownRuntime(DEFAULT_ENGINES[Format.OPENVINO], "detexport.runtime.openvino"),
)


@dataclass(frozen=True)
class RuntimeStatus:
    """The result of probing a runtime.

    Args:
        name: the runtime's.
        status: whether it is usable, not installed, or installed and cannot be imported.
        version: empty unless it is usable.
        devices: names that ``detexport.runtime.load`` accepts for it.
        message: what is missing or broken, and what to do.
    """

    name: str
    status: Literal["usable", "missing", "broken"]
    version: str = ""
    devices: tuple[str, ...] = ()
    message: str = ""


@dataclass(frozen=True)
class Found:
    """What the other process prints: see ``describe``."""

    version: str
    devices: tuple[str, ...]


def probe_runtimes() -> list[RuntimeStatus]:
    """Import all installed runtimes in parallel and list their devices."""
    with ThreadPoolExecutor() as pool:
        return [*pool.map(probe, RUNTIMES)]


def probe(runtime: KnownRuntime) -> RuntimeStatus:
    """Import a runtime, if it is installed, in another process."""
    try:
        require_packages(*runtime.packages)
    except MissingPackageError as error:
        return RuntimeStatus(runtime.name, "missing", message=str(error))
    # -P: a file in the working folder must not shadow a package.
    command = [sys.executable, "-P", "-m", __name__, runtime.name]
    try:
        # What a library prints need not be text.
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return RuntimeStatus(
            runtime.name, "broken", message=f"importing it did not end within {TIMEOUT_S:.0f} s"
        )
    if done.returncode != 0:
        return RuntimeStatus(runtime.name, "broken", message=_failure(done))
    try:
        found = decode(parse_json(done.stdout.splitlines()[-1].encode()), Found, "the last line")
    except (IndexError, ValueError) as error:
        return RuntimeStatus(runtime.name, "broken", message=f"importing it printed something else: {error}")
    return RuntimeStatus(runtime.name, "usable", found.version, found.devices)


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    """Return how an import failed: the error's last line, or the signal that ended the process."""
    if done.returncode < 0:
        return f"importing it ended the process by {signal.Signals(-done.returncode).name}"
    return (done.stderr.strip().splitlines() or [f"importing it ended with exit code {done.returncode}"])[-1]


def describe(runtime: KnownRuntime) -> dict[str, Any]:
    """Import a runtime in this process; return its version and the names of its devices."""
    packages = [import_module(package) for package in runtime.packages]
    find_devices: Callable[[], list[str]] = import_module(runtime.module).find_devices
    return {"version": packages[0].__version__, "devices": find_devices()}


if __name__ == "__main__":
    (asked,) = (runtime for runtime in RUNTIMES if runtime.name == sys.argv[1])
    print(json.dumps(describe(asked)))
