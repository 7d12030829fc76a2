"""The evidence that is registered with an artifact: its verdict, its latency and its lineage."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detexport.parity.measures import limited_errors
from detexport.results.job_metrics import job_metrics
from detexport.results.latency import runners_of
from detexport.system.digests import sha256_json
from detexport.system.versions import package_versions

# Tracked files that the pipeline itself writes while it runs.
WRITTEN = ("dvc.lock", "params.yaml")
QUANTILES = ("p50_ms", "p90_ms", "p99_ms")


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
        return runners_of(self.latency or {}, self.target)

    @property
    def metrics(self) -> dict[str, float]:
        """The job's metrics as MLflow takes them: numbers."""
        return {name: float(value) for name, value in job_metrics(self.verdict, self.runners).items()}

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
            quantiles = " | ".join(f"{runner[name]:.1f} ms" for name in QUANTILES)
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
