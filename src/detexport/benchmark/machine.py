"""What a latency depends on and a user would name: the machine."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

CPU_INFO = Path("/proc/cpuinfo")
GIBIBYTE = 2**30


def describe_machine() -> dict[str, Any]:
    """Describe this machine by what decides its speed.

    Nothing in it changes from one boot or run to the next, and nothing names the machine: two machines of a
    kind have one description. It costs next to nothing: no framework is imported.
    """
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": _usable_cores(),
        # Rounded: the kernel keeps a little for itself, and not always the same.
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIBIBYTE),
        "os": _operating_system(),
        "accelerators": _accelerators(),
    }


def _cpu_model() -> str:
    text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.is_file() else ""
    first_core = text.partition("\n\n")[0]
    lines = (line.partition(":") for line in first_core.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    if "model name" not in fields:
        return platform.processor() or "unknown"
    # A virtual machine's name may say no more than "Processor"; the numbers tell the generations apart.
    return "{model name} (family {cpu family}, model {model})".format_map(
        {"cpu family": "?", "model": "?"} | fields
    )


def _usable_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _accelerators() -> list[str]:
    """Name, memory and driver of each NVIDIA device, as the driver's own tool lists them."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # no driver, so no device
    return [line.strip() for line in listed.splitlines() if line.strip()]
