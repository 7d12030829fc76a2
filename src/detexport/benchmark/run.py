"""Benchmark a model: open its candidates on a device, measure them together, report which ones failed."""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from detexport.benchmark.latency import Runner, measure_interleaved
from detexport.reference.store import DATA, Reference
from detexport.system.files import write_json


@dataclass(frozen=True)
class Candidate:
    """The eager model or an artifact, to be opened on a device.

    Args:
        name: ``eager``, or a target's name.
        open: device -> runner; called twice, the second call is timed.
        size_bytes: size of its files.
    """

    name: str
    open: Callable[[str], Runner]
    size_bytes: int


@dataclass(frozen=True)
class LatencyReport:
    """The measured latencies, with the machine and the settings.

    Args:
        machine: the result of ``describe_machine``.
        settings: the options of the benchmark, such as rounds and threads.
        artifacts: sha256 of each target's artifact.
        devices: for each device ``{"status": "measured", ...}`` or ``{"status": "skipped", "reason": ...}``.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    artifacts: dict[str, str]
    devices: dict[str, dict[str, Any]]

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(path, vars(self))

    def describe(self) -> list[str]:
        """What was measured, and what could not be, in lines of text."""
        lines = []
        for device, measured in self.devices.items():
            lines.append(f"{device}: {measured['status']} {measured.get('reason', '')}")
            for name, statistics in measured.get("runners", {}).items():
                lines.append(f"  {name}: {statistics['p50_ms']} ms, p90 {statistics['p90_ms']} ms")
            for name, reason in measured.get("failed", {}).items():
                lines.append(f"  {name}: not measured: {reason}")
        return lines


def benchmark(
    candidates: Sequence[Candidate],
    images: Sequence[np.ndarray],
    device: str,
    *,
    warmup: int,
    rounds: int,
    pause_s: float = 0.0,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure all candidates together on one device.

    A candidate that cannot be opened, or that fails on the first image, is left out and listed under
    ``failed`` with its error; the others are measured all the same.

    Args:
        candidates: the eager model, named ``eager``, and the targets.
        images: (3, H, W) uint8, all of one size.
        device: ``"cpu"`` or ``"cuda"``.
        warmup: number of rounds that are not measured.
        rounds: number of measured rounds.
        pause_s: pause before each call, see ``measure_interleaved``.
        synchronize: waits for the device's queue.

    Returns:
        The device's entry in ``LatencyReport.devices``.
    """
    runners: dict[str, Runner] = {}
    opened: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for candidate in candidates:
        try:
            runner, load_s = _open(candidate, device)
            runner(images[0])
        except Exception as error:  # engines raise errors of any class
            failed[candidate.name] = f"{type(error).__name__}: {error}"
        else:
            runners[candidate.name] = runner
            opened[candidate.name] = {"load_s": round(load_s, 4), "size_bytes": candidate.size_bytes}
    if not runners:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        return {"status": "skipped", "reason": f"nothing runs here: {reasons}"}
    measured = measure_interleaved(
        runners,
        images,
        warmup=warmup,
        rounds=rounds,
        pause_s=pause_s,
        synchronize=synchronize,
        description=device,
    )
    return {
        "status": "measured",
        "image_size": list(images[0].shape[1:]),
        "images": len(images),
        "peak_rss_bytes": peak_rss_bytes(),
        "runners": {name: {**statistics, **opened[name]} for name, statistics in measured.items()},
        "failed": failed,
    }


def choose_images(reference: Reference, count: int) -> list[np.ndarray]:
    """Return at most ``count`` of the data set's images at the model's own size (scale 1), all of one size.

    They have the most frequent size: a latency is reported for one image size, and engines plan their
    kernels again for each new size.
    """
    of_data = [sample for sample in reference.samples if sample.meta.kind == DATA]
    samples = [sample for sample in of_data if sample.meta.scale == 1] or of_data
    sizes = [sample.meta.image_size for sample in samples]
    most_frequent = max(sizes, key=sizes.count)  # the first of several
    return [sample.image() for sample in samples if sample.meta.image_size == most_frequent][:count]


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _open(candidate: Candidate, device: str) -> tuple[Runner, float]:
    """Open a candidate; return its runner and the seconds that opening took."""
    candidate.open(device)  # so that importing the engine and reading the files from disk are not measured
    start = perf_counter()
    return candidate.open(device), perf_counter() - start
