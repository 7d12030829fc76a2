"""The evidence that is registered with an artifact: its verdict, its latency and its lineage."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import yaml

from detexport.errors import DataError, listed
from detexport.parity.compare import Tolerance
from detexport.parity.measures import limited_errors
from detexport.system.digests import sha256_json
from detexport.system.files import read_json
from detexport.system.json_values import decode
from detexport.system.versions import package_versions

CERTIFICATE, VERDICT, LATENCY = "certificate.json", "parity.json", "latency.json"
"""Files in a version's run; the latency is ``{}`` if it did not measure this artifact."""

# Tracked files that the pipeline itself writes while it runs.
WRITTEN = ("dvc.lock", "params.yaml")
RUNNER_METRICS = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "ratio_to_eager", "load_s")


class Sample(TypedDict):
    """What is registered of a sample; it has more."""

    passed: bool
    errors: NotRequired[dict[str, float]]
    widened: NotRequired[dict[str, float]]


class Detections(TypedDict):
    """Numbers of detections in all samples."""

    expected: int
    actual: int
    paired: int


class TaskMetrics(TypedDict):
    """The task metrics of the artifact, and how far they lie from the eager model's."""

    artifact: dict[str, float]
    differences: dict[str, float]
    budget: float


class Verdict(TypedDict):
    """The entries of a parity report that are registered; the report has others."""

    passed: bool
    reasons: list[str]
    max: dict[str, float | None]
    detections: Detections
    samples: list[Sample]
    tolerance: dict[str, float] | None
    accuracy: NotRequired[TaskMetrics | None]


class Runner(TypedDict):
    """What is registered of a target's latency; there is no ratio where eager could not be measured."""

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
    """The entries of a latency report that are registered."""

    artifacts: dict[str, str]
    devices: dict[str, MeasuredDevice | SkippedDevice]


def read_verdict(path: Path) -> dict[str, Any]:
    """Read a parity report.

    Raises:
        DataError: the file is missing or is not a parity report.
    """
    verdict = _read(path, Verdict, "parity report", "validate")
    limits = {one.name for one in fields(Tolerance)}
    if verdict["tolerance"] is not None and not limits <= verdict["tolerance"].keys():
        raise DataError(
            f"{path} is not a parity report",
            got=f"no limit {listed(sorted(limits - verdict['tolerance'].keys()))}",
            expected="a tolerance with all its limits",
            remedy="run the stage `validate` again",
        )
    return verdict


def read_latency(path: Path) -> dict[str, Any]:
    """Read a latency report.

    Raises:
        DataError: the file is missing or is not a latency report.
    """
    return _read(path, Latency, "latency report", "benchmark")


def _read(path: Path, kind: type, what: str, stage: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = decode(read_json(path), kind, path.name)
        return value
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a {what}",
            got=f"{type(error).__name__}: {error}",
            expected=f"the file that the stage `{stage}` writes",
            remedy=f"run the stage `{stage}` again",
        ) from error


@dataclass(frozen=True)
class Evidence:
    """The measurements of one job, and its lineage.

    Args:
        target: name of the job's target.
        verdict: the parity report, as JSON.
        latency: the model's latency report, as JSON; None if it did not measure this artifact.
        certificate: the verdict's certificate, which names the artifact, job and runtime it is valid for.
        lineage: tags with the commit, the versions and the stages that made the artifact.
    """

    target: str
    verdict: dict[str, Any]
    latency: dict[str, Any] | None
    certificate: dict[str, Any]
    lineage: dict[str, str]

    @property
    def runners(self) -> dict[str, dict[str, Any]]:
        """The target's latency by device; only devices on which it was measured."""
        devices = self.latency["devices"] if self.latency else {}
        return {
            name: device["runners"][self.target]
            for name, device in devices.items()
            if device["status"] == "measured" and self.target in device["runners"]
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Parity, accuracy and latency as MLflow metrics, by name."""
        parity = {f"parity/max_{name}": value for name, value in self.verdict["max"].items()}
        accuracy = self.verdict.get("accuracy") or {"artifact": {}, "differences": {}}
        parity |= {f"accuracy/{name}": value for name, value in accuracy["artifact"].items()}
        parity |= {f"accuracy/{name}_delta": value for name, value in accuracy["differences"].items()}
        counts = {f"parity/detections_{name}": count for name, count in self.verdict["detections"].items()}
        latency = {
            f"latency/{device}/{name}": runner[name]
            for device, runner in self.runners.items()
            for name in RUNNER_METRICS
            if name in runner  # the ratio is missing if the eager model could not be measured
        }
        for runner in self.runners.values():
            if "size_bytes" in runner:
                latency["size_bytes"] = runner["size_bytes"]
        # Without paired detections an error is None, not 0: it is left out.
        return {k: float(v) for k, v in {**parity, **counts, **latency}.items() if v is not None}

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """The files of a version's run: certificate, verdict and latency, by path."""
        return {CERTIFICATE: self.certificate, VERDICT: self.verdict, LATENCY: self.latency or {}}

    @property
    def sha256(self) -> str:
        """A digest that changes with a new measurement or a rebuilt artifact, but not with a commit alone."""
        lock = self.lineage.get("dvc.lock_sha256")
        certificate = self.certificate["sha256"]
        return sha256_json({"certificate": certificate, "latency": self.latency, "lock": lock})

    def describe(self) -> str:
        """Return the verdict and the latency as Markdown."""
        samples = self.verdict["samples"]
        passed = sum(sample["passed"] for sample in samples)
        paired = f", {self.verdict['detections']['paired']} detections paired"
        lines = [
            f"Parity with the eager model: **{'passed' if self.verdict['passed'] else 'failed'}**, "
            f"{passed} of {len(samples)} samples{paired if 'box_error_px' in self.verdict['max'] else ''}.",
            "",
            "| largest error | measured | limit |",
            "|---|---|---|",
            *(
                f"| {measure.words} | {_number(worst, measure.unit)} | {limit} |"
                for measure, worst, limit in limited_errors(self.verdict)
            ),
            "",
            "| latency | image | p50 | p90 | p99 | over eager |",
            "|---|---|---|---|---|---|",
        ]
        for device, runner in self.runners.items():
            height, width = self.latency["devices"][device]["image_size"] if self.latency else (0, 0)
            quantiles = " | ".join(f"{runner[name]:.1f} ms" for name in RUNNER_METRICS[:3])
            ratio = f"{runner['ratio_to_eager']:.2f}" if "ratio_to_eager" in runner else "not measured"
            lines.append(f"| {device} | {height} x {width} | {quantiles} | {ratio} |")
        if not self.runners:
            lines.append("| not measured | | | | | |")
        return "\n".join(lines)


def _number(value: float | None, unit: str = "") -> str:
    return "nothing to compare" if value is None else f"{value:.3g} {unit}".rstrip()


@dataclass(frozen=True)
class Lineage:
    """Where the results in a checkout come from.

    Args:
        commit: tags that name the commit.
        lock: the stages of ``dvc.lock``.
        versions: tags with the versions of packages.
    """

    commit: dict[str, str]
    lock: dict[str, Any]
    versions: dict[str, str]

    def describe(self, stages: Sequence[str], optional: Sequence[str] = ()) -> dict[str, str]:
        """Return the tags of one job.

        The digest covers the job's own entries of ``dvc.lock``: the file as a whole still changes until the
        pipeline ends.

        Args:
            stages: names in ``dvc.lock`` of the stages that made the job; a missing entry counts as null.
            optional: stages that only some jobs have; one without an entry is left out.
        """
        names = sorted([*stages, *(stage for stage in optional if stage in self.lock)])
        entries = {name: self.lock.get(name) for name in names}
        return {
            **self.commit,
            **self.versions,
            "dvc.stages": " ".join(names),
            "dvc.stages_without_entry": " ".join(name for name in names if entries[name] is None),
            "dvc.lock_sha256": sha256_json(entries),
        }


def read_lineage(checkout: Path) -> Lineage:
    """Read the lineage of the results in the checkout that the pipeline runs in."""
    path = checkout / "dvc.lock"
    lock = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
    versions = {f"version.{name}": version for name, version in package_versions().items()}
    python = {"version.python": platform.python_version()}
    return Lineage(_describe_commit(checkout), lock, python | versions)


def _describe_commit(root: Path) -> dict[str, str]:
    revision = _git(root, "rev-parse", "HEAD")
    if not revision:
        return {"git.revision": "not a git checkout"}
    changes = _git(root, "status", "--porcelain", "--", ".", *(f":!{name}" for name in WRITTEN))
    return {"git.revision": revision, "git.dirty": "true" if changes else "false"}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
