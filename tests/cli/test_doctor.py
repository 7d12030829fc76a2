"""``detexport doctor``: what is installed, what works, and what installs the rest."""

import json
import os
from pathlib import Path

import pytest
from running import Run

from detexport import __version__
from detexport.cli import doctor as command
from detexport.cli.doctor import doctor
from detexport.runtime.probe import RuntimeStatus

USABLE = RuntimeStatus("ONNX Runtime", "usable", "1.2.3", ("cpu", "cuda"))
MISSING = RuntimeStatus("OpenVINO", "missing", message="openvino is not installed; remedy: pip install it")
BROKEN = RuntimeStatus("PyTorch", "broken", message="ImportError: libcudart.so.13")


def test_it_lists_runtimes_devices_and_extras(run: Run) -> None:
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["detexport"] == __version__
    assert document["machine"]["cores"] >= 1
    runtimes = {runtime["name"]: runtime for runtime in document["runtimes"]}
    assert set(runtimes) == {"PyTorch", "ONNX Runtime", "OpenVINO"}
    assert all(runtime["status"] == "usable" for runtime in runtimes.values())
    assert all("cpu" in runtime["devices"] for runtime in runtimes.values())
    assert document["extras"]["torch"] == {"missing": [], "install": "pip install 'detexport[torch]'"}


def test_a_broken_runtime_is_an_exit_code_of_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken" / "openvino").mkdir(parents=True)
    (tmp_path / "broken" / "openvino" / "__init__.py").write_text("raise ImportError('no libopenvino.so')")
    path = [str(tmp_path / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = run("doctor", PYTHONPATH=os.pathsep.join(path))
    assert done.returncode == 1
    assert "  OpenVINO         broken\n                   ImportError: no libopenvino.so\n" in done.stdout


@pytest.mark.parametrize(
    ("runtimes", "works"), [([USABLE, MISSING], True), ([USABLE, BROKEN], False), ([], True)]
)
def test_what_is_not_installed_is_no_fault(
    runtimes: list[RuntimeStatus], works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "probe_runtimes", lambda: runtimes)
    assert doctor(as_json=True) is works


def test_the_text_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "probe_runtimes", lambda: [USABLE, MISSING])
    monkeypatch.setattr(command, "unmet", lambda requirements: [str(requirements[0].name)])
    monkeypatch.setattr(command, "instruction_sets", lambda: {"AVX2": True, "AMX": False, "VNNI": True})
    doctor(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "  ONNX Runtime     1.2.3, runs on cpu, cuda" in lines
    assert lines[lines.index("  OpenVINO         missing") + 1].strip() == MISSING.message
    assert lines[lines.index("  report           missing: jinja2") + 1].strip() == (
        "pip install 'detexport[report]'"
    )
    assert "  with             AVX2, VNNI" in lines
    assert "  without          AMX" in lines
