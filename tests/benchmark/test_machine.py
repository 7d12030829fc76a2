import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from detexport.benchmark import describe_machine, machine


def test_it_says_what_decides_the_speed_and_says_it_twice_alike() -> None:
    description = describe_machine()
    assert description == describe_machine()
    assert description["cores"] >= 1
    assert description["memory_gib"] >= 1
    assert description["cpu"]


def test_it_does_not_name_the_machine() -> None:
    assert platform.node() not in json.dumps(describe_machine())


def test_a_core_model_is_told_by_name_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = "\n\n".join(
        f"processor\t: {core}\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: A Processor\nMHz\t: {core}.5"
        for core in range(2)
    )
    (tmp_path / "cpuinfo").write_text(cores)
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert describe_machine()["cpu"] == "A Processor (family 6, model 143)"
    (tmp_path / "cpuinfo").write_text("processor: 0\nBogoMIPS: 50\n")
    assert describe_machine()["cpu"]


def test_accelerators_are_what_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 580.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_machine()["accelerators"] == ["NVIDIA H200, 143771 MiB, 580.1"]
    tool.write_text("#!/bin/sh\necho 'no driver'; exit 9\n")
    assert describe_machine()["accelerators"] == []


def test_describing_imports_no_framework() -> None:
    code = "import sys, detexport.benchmark; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("x86_64", "flags\t: fpu avx512f amx_bf16", {"AVX512F": True, "AMX_BF16": True, "AVX_VNNI": False}),
        ("x86_64", "flags\t: abm avx avx2 bmi1 bmi2 f16c fma movbe", {"x86-64-v3": True, "AVX512F": False}),
        ("x86_64", "flags\t: avx avx2 fma", {"x86-64-v3": False}),
        ("aarch64", "Features\t: fp asimd bf16", {"ASIMD": True, "BF16": True, "I8MM": False}),
    ],
)
def test_instruction_sets_are_those_of_the_first_core(
    architecture: str, flags: str, expected: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n\nprocessor\t: 1\nflags\t: avx512_bf16\n")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    found = machine.instruction_sets()
    assert {name: found[name] for name in expected} == expected
    assert not found.get("AVX512_BF16", False)


def test_no_instruction_set_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "absent")
    assert machine.instruction_sets() == {}
