"""Read a latency report: the latencies of a model's targets, by device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from detexport.results.read import read_result


class Runner(TypedDict):
    """What is read of a target's latency; without an eager latency there is no ratio."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    ratio_to_eager: NotRequired[float]
    load_s: float
    size_bytes: NotRequired[int]


class MeasuredDevice(TypedDict):
    """A device on which the model's targets were run."""

    status: Literal["measured"]
    image_size: tuple[int, int]
    runners: dict[str, Runner]


class SkippedDevice(TypedDict):
    """A device on which nothing was run."""

    status: Literal["skipped"]


class Latency(TypedDict):
    """The entries of a latency report that are read; the report has others."""

    machine: NotRequired[dict[str, Any]]
    artifacts: dict[str, str]
    devices: dict[str, MeasuredDevice | SkippedDevice]


def read_latency(path: Path) -> dict[str, Any]:
    """Read a latency report.

    Raises:
        DataError: the file is missing or is not a latency report.
    """
    return read_result(path, Latency, "latency report", "benchmark")


NOISY = 1.5
"""Ratio of p90 to the median above which other load disturbed a measurement."""


def is_noisy(measured: Mapping[str, Any]) -> bool:
    """Return whether any p90 of a measured device exceeds its median by more than ``NOISY``."""
    return any(runner["p90_ms"] > NOISY * runner["p50_ms"] for runner in measured["runners"].values())


def runners_of(
    latency: Mapping[str, Any], target: str, artifact_sha256: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return a target's latency by device; only devices on which it was measured.

    Args:
        latency: a latency report, as JSON; an empty one has no devices.
        target: the target's name, or ``"eager"``.
        artifact_sha256: the artifact that must have been measured; None accepts any.
    """
    if artifact_sha256 is not None and latency.get("artifacts", {}).get(target) != artifact_sha256:
        return {}
    return {
        name: device["runners"][target]
        for name, device in latency.get("devices", {}).items()
        if device["status"] == "measured" and target in device["runners"]
    }
