"""The evidence that is registered with an artifact: its verdict, its latency and its lineage."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from detexport.results.job_metrics import job_metrics
from detexport.results.latency import read_latency, runners_of
from detexport.system.digests import sha256_json
from detexport.system.files import read_json
from detexport.system.versions import package_versions

CERTIFICATE, VERDICT, LATENCY = "certificate.json", "parity.json", "latency.json"
"""Files in a version's run; the latency is ``{}`` if it did not measure this artifact."""
DATA_STATISTICS = "data_statistics.json"
"""The file in a version's run with the statistics of its data; older versions have none."""

# The tracked file that the pipeline itself writes while it runs.
WRITTEN = ("dvc.lock",)
DATA = "data"
"""The folder of the data sets."""


@dataclass(frozen=True)
class Evidence:
    """The measurements of one job, and its lineage.

    Args:
        target: name of the job's target.
        verdict: the parity report, as JSON.
        latency: the model's latency report, as JSON; None if it did not measure this artifact.
        certificate: the verdict's certificate, which names the artifact, job and runtime it is valid for.
        lineage: tags with the commit, and the digest of the job's entries in ``dvc.lock``.
        reference: folder of the eager model's outputs that the artifact was compared with.
        drawn: file of the artifact's outputs on a few of its inputs.
        versions: versions of Python and of packages, by name.
        entries: digest of each of the job's entries in ``dvc.lock``; None for a missing one.
        data: ``path`` and ``md5`` of the data set in ``dvc.lock``; empty if there is no entry.
        license: licence of the weights; empty if it is not known.
        data_statistics: see ``describe_labels``, of the data set; None if it is not known.
    """

    target: str
    verdict: dict[str, Any]
    latency: dict[str, Any] | None
    certificate: dict[str, Any]
    lineage: dict[str, str]
    reference: Path
    drawn: Path
    versions: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, str | None] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    license: str = ""
    data_statistics: Mapping[str, Any] | None = None

    @property
    def dataset(self) -> str:
        """The name of the data set that the artifact was validated on; empty if it is not known."""
        return PurePosixPath(self.data["path"]).name if self.data else ""

    @property
    def runners(self) -> dict[str, dict[str, Any]]:
        """The target's latency by device; only devices on which it was measured."""
        return runners_of(self.latency or {}, self.target)

    @property
    def metrics(self) -> dict[str, float]:
        """The job's metrics as MLflow takes them: numbers."""
        return {name: float(value) for name, value in job_metrics(self.verdict, self.runners).items()}

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """The files of a version's run: certificate, verdict, latency and statistics of the data, by path."""
        files = {CERTIFICATE: self.certificate, VERDICT: self.verdict, LATENCY: self.latency or {}}
        if self.data_statistics is None:
            return files
        return files | {DATA_STATISTICS: dict(self.data_statistics)}

    @property
    def sha256(self) -> str:
        """A digest that changes with a new measurement or a rebuilt artifact, but not with a commit alone."""
        return evidence_sha256(self.certificate, self.latency, self.lineage)


def read_run_latency(run: Path) -> dict[str, Any] | None:
    """Read the latency in the folder of a run's files; None if it did not measure this artifact.

    Raises:
        DataError: the file is not a latency report.
    """
    return read_latency(run / LATENCY) if read_json(run / LATENCY) else None


def evidence_sha256(
    certificate: dict[str, Any], latency: dict[str, Any] | None, tags: Mapping[str, str]
) -> str:
    """Return the digest of a version's evidence; ``tags`` are those of its lineage, among others."""
    lock = tags.get("dvc.lock_sha256")
    return sha256_json({"certificate": certificate["sha256"], "latency": latency or None, "lock": lock})


@dataclass(frozen=True)
class Lineage:
    """Where the results in a checkout come from.

    Args:
        commit: tags that name the commit.
        lock: the stages of ``dvc.lock``.
        versions: versions of Python and of packages, by name.
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
        return {**self.commit, "dvc.lock_sha256": sha256_json(self._entries(stages, optional))}

    def digests(self, stages: Sequence[str], optional: Sequence[str] = ()) -> dict[str, str | None]:
        """Return the digest of each entry that ``describe`` covers; None for a missing one."""
        entries = self._entries(stages, optional)
        return {name: sha256_json(entry) if entry else None for name, entry in entries.items()}

    def data_of(self, stage: str) -> dict[str, str]:
        """Return ``path`` and ``md5`` of the data set that a stage read; empty if it has no entry."""
        for dependency in (self.lock.get(stage) or {}).get("deps", ()):
            if PurePosixPath(dependency["path"]).parts[0] == DATA:
                return {"path": dependency["path"], "md5": dependency["md5"]}
        return {}

    def _entries(self, stages: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
        names = sorted([*stages, *(stage for stage in optional if stage in self.lock)])
        return {name: self.lock.get(name) for name in names}


def read_lineage(checkout: Path) -> Lineage:
    """Read the lineage of the results in the checkout that the pipeline runs in."""
    path = checkout / "dvc.lock"
    lock = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
    versions = {"python": platform.python_version(), **package_versions()}
    return Lineage(_describe_commit(checkout), lock, versions)


def _describe_commit(root: Path) -> dict[str, str]:
    revision = _git(root, "rev-parse", "HEAD")
    if not revision:
        return {"git.revision": "not a git checkout"}
    changes = _git(root, "status", "--porcelain", "--", ".", *(f":!{name}" for name in WRITTEN))
    return {"git.revision": revision, "git.dirty": "true" if changes else "false"}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
