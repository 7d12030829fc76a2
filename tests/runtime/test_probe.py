"""Runtimes are found by importing each in a process of its own."""

import os
import sys
from pathlib import Path

import pytest

from detexport.runtime import probe
from detexport.runtime.probe import RUNTIMES, describe

BY_NAME = {runtime.name: runtime for runtime in RUNTIMES}


@pytest.mark.parametrize("name", ["ONNX Runtime", "OpenVINO"])
def test_a_runtime_that_is_installed_is_usable_on_the_cpu(name: str) -> None:
    found = probe.probe(BY_NAME[name])
    assert (found.name, found.status, found.message) == (name, "usable", "")
    assert found.version[0].isdigit()
    assert "cpu" in found.devices


def test_torch_lists_the_devices_that_it_accepts() -> None:
    import torch

    from detexport.runtime.torch_session import require_device

    found = describe(BY_NAME["PyTorch"])
    assert found["version"] == torch.__version__
    assert len(found["devices"]) == 1 + torch.cuda.device_count()
    for device in found["devices"]:
        require_device(device)


def test_a_runtime_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = probe.probe(BY_NAME["ONNX Runtime"])
    assert (found.status, found.version, found.devices) == ("missing", "", ())
    assert found.message.endswith("remedy: pip install 'detexport[onnxruntime]'")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "ImportError: libcudart.so.13: cannot open"),
        ("import os; os.abort()", "importing it ended the process by SIGABRT"),
        ("import sys; sys.exit(7)", "importing it ended with exit code 7"),
        (
            "import os; os.write(2, b'lib\\xff: no such symbol\\n'); os._exit(1)",
            "lib\\xff: no such symbol",
        ),
        (
            "import atexit, os; __version__ = '1'; get_available_providers = list; "
            "atexit.register(lambda: os.write(1, b'bye \\xff\\n'))",
            "importing it printed something else: ",
        ),
        ("import time; time.sleep(60)", "importing it did not end within 3 s"),
    ],
)
def test_a_runtime_that_cannot_be_imported_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(probe, "TIMEOUT_S", 3.0 if "sleep" in code else 120.0)
    found = probe.probe(BY_NAME["ONNX Runtime"])
    assert found.status == "broken"
    assert found.message.startswith(message)
