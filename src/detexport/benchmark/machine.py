"""A description of the machine that latencies are measured on."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from detexport.system.environment import operating_system

CPU_INFO = Path("/proc/cpuinfo")
GIBIBYTE = 2**30
INSTRUCTION_SETS = {
    "x86_64": {
        "x86-64-v3": {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},  # AOTInductor's default
        "AVX512F": {"avx512f"},
        "AVX_VNNI": {"avx_vnni"},  # int8
        "AVX512_VNNI": {"avx512_vnni"},  # int8
        "AMX_INT8": {"amx_int8"},
        "AVX512_BF16": {"avx512_bf16"},  # bfloat16 in OpenVINO: this or AMX_BF16
        "AMX_BF16": {"amx_bf16"},
    },
    "aarch64": {
        "ASIMD": {"asimd"},
        "DOTPROD": {"asimddp"},  # int8
        "I8MM": {"i8mm"},
        "BF16": {"bf16"},
        "SVE": {"sve"},
    },
}
"""Instruction sets of each architecture, with their flags in Linux's ``/proc/cpuinfo``."""


def describe_machine() -> dict[str, Any]:
    """Describe the hardware and operating system that determine this machine's speed.

    The description is the same at every boot and run and does not name the machine: two machines of one
    kind have the same description. It imports no framework.
    """
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": _usable_cores(),
        # Rounded: the kernel reserves a little, not always the same amount.
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIBIBYTE),
        "os": operating_system(),
        "accelerators": _accelerators(),
    }


def instruction_sets() -> dict[str, bool]:
    """Return whether the CPU has each instruction set that artifacts or their speed depend on.

    Empty if the system is not Linux or the architecture is not in ``INSTRUCTION_SETS``.
    """
    fields = _first_core()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    wanted = INSTRUCTION_SETS.get(platform.machine(), {})
    return {name: needed <= flags for name, needed in wanted.items()} if flags else {}


def _first_core() -> dict[str, str]:
    """Return the fields of the first core in ``/proc/cpuinfo``; empty on systems without it."""
    text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.is_file() else ""
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu_model() -> str:
    fields = _first_core()
    if "model name" not in fields:
        return platform.processor() or "unknown"
    # A virtual machine's model name may be a mere "Processor"; family and model identify the generation.
    return "{model name} (family {cpu family}, model {model})".format_map(
        {"cpu family": "?", "model": "?"} | fields
    )


def _usable_cores() -> int:
    """Return the number of cores this process may use: in a container, often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _accelerators() -> list[str]:
    """Return name, memory and driver version of each NVIDIA device, as ``nvidia-smi`` lists them."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # without the driver there is no usable device
    return [line.strip() for line in listed.splitlines() if line.strip()]
