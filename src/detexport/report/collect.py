"""Collect the results of a run, complete or not: a failed run needs a report most."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detexport.artifact import MANIFEST
from detexport.errors import DataError
from detexport.results.job_metrics import accuracy_words
from detexport.results.latency import read_latency, runners_of
from detexport.results.parity_report import read_parity_report
from detexport.results.read import read_object
from detexport.results.runtime_names import engine_name
from detexport.system.files import read_json


@dataclass(frozen=True)
class Headline:
    """A task metric of an artifact.

    Args:
        name: the metric's name, ``bbox/AP``.
        eager: the eager model's, in [0, 1].
        artifact: the artifact's.
        difference: artifact - eager.
    """

    name: str
    eager: float
    artifact: float
    difference: float

    @property
    def words(self) -> str:
        """The metric in words."""
        return accuracy_words(self.name)


@dataclass(frozen=True)
class ReportedJob:
    """One model for one target, and its results; ``{}`` stands for a file that was not written.

    Args:
        name: the job's name.
        model: the model's name.
        target: the target's name.
        parity: the verdict that ``validate`` wrote.
        artifact: the artifact's manifest.
        latency: the target's latency statistics by device.
        diagnosis: the first segment that differs, as ``diagnose`` wrote it.
        registration: its entry in the list of registered jobs, or of those logged as experiments.
        refusals: the reasons why it was not registered.
        certificate: the verdict's certificate.
        decision: the decision of the stage ``promote`` on it.
    """

    name: str
    model: str
    target: str
    parity: dict[str, Any] = field(default_factory=dict)
    artifact: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, dict[str, Any]] = field(default_factory=dict)
    diagnosis: dict[str, Any] = field(default_factory=dict)
    registration: dict[str, Any] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    certificate: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there is a verdict and it passed."""
        return bool(self.parity.get("passed"))

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if not self.parity:
            return "no verdict"
        return "passed" if self.passed else "did not pass"

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """The task metrics that were measured, boxes first."""
        accuracy = self.parity.get("accuracy") or {"differences": {}}
        return tuple(
            Headline(name, accuracy["eager"][name], accuracy["artifact"].get(name, 0.0), difference)
            for name, difference in accuracy["differences"].items()
        )

    @property
    def size_bytes(self) -> int | None:
        """Size of the artifact's files; None if its latency was not measured."""
        sizes = [runner["size_bytes"] for runner in self.latency.values() if "size_bytes" in runner]
        return sizes[0] if sizes else None

    @property
    def runtime(self) -> str:
        """The engine that runs the artifact, with its version; empty if it was not validated."""
        path = self.certificate.get("runtime", {}).get("_target_", "")
        name, package = engine_name(path)
        version = self.certificate.get("environment", {}).get("versions", {}).get(package, "")
        return f"{name} {version}".rstrip()

    @property
    def is_champion(self) -> bool:
        """Whether its registered version is the champion."""
        after = self.decision.get("champion_after")
        return after is not None and str(after) == str(self.registration.get("version"))

    @property
    def registered_as(self) -> str:
        """Registered name and version, or the run of an experiment; empty if not registered."""
        entry = self.registration
        if "version" in entry:
            return f"{entry['name']} v{entry['version']}"
        return f"{entry['experiment']} run {entry['run_id'][:8]}" if entry else ""

    @property
    def shipped(self) -> bool:
        """Whether the artifact that passed is the one that is registered."""
        return (
            self.passed
            and not self.refusals
            and self.registration.get("artifact_sha256") == self.parity["artifact_sha256"]
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not shipped; empty if it is."""
        if self.shipped:
            return ()
        if not self.parity:
            return ("it was not validated", *self.refusals)
        if not self.passed:
            return tuple(self.parity["reasons"])
        if self.refusals:
            return self.refusals
        return (
            "the registered version holds another artifact" if self.registration else "it is not registered",
        )


@dataclass(frozen=True)
class ReportedModel:
    """The results that a model's jobs share.

    Args:
        name: the model's name.
        folder: ``<models_dir>/<name>``.
        contract: the I/O contract.
        latency: the latency report.
        reference: the reference's index.
        floor: the noise floor: the numerical error between runs of the eager model.
        training: the metrics measured at training.
        weights: the load report of the checkpoint.
    """

    name: str
    folder: Path
    contract: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    floor: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Args:
        jobs: the requested jobs, in their order.
        models: the jobs' models.
        tracking_uri: the registry's tracking URI; empty if nothing was registered.
        dataset: the data set's description.
        left_out: pairs that are declared unsupported and not run: ``{name: {reason, upstream}}``.
        is_promoted: whether the stage ``promote`` has run.
        coverage: the cells of ``docs/coverage.json``: model, target, status and reason of each.
    """

    jobs: tuple[ReportedJob, ...]
    models: tuple[ReportedModel, ...]
    tracking_uri: str = ""
    dataset: dict[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    is_promoted: bool = False
    coverage: tuple[dict[str, Any], ...] = ()

    @property
    def machine(self) -> dict[str, Any]:
        """The machine on which latencies were measured; empty if none were."""
        machines = [model.latency["machine"] for model in self.models if model.latency]
        return machines[0] if machines else {}

    @property
    def registered_at(self) -> str:
        """Time of the latest registered version (ISO 8601, UTC); empty if unknown."""
        return max((job.registration.get("registered_at", "") for job in self.jobs), default="")

    @property
    def revisions(self) -> tuple[str, ...]:
        """The git revisions that the versions were registered from, in the jobs' order."""
        found = (job.registration.get("git_revision", "") for job in self.jobs)
        return tuple(dict.fromkeys(revision for revision in found if revision))

    @property
    def passed(self) -> int:
        """Number of jobs that passed."""
        return sum(job.passed for job in self.jobs)

    @property
    def versions(self) -> int:
        """Number of jobs that passed and are registered as versions."""
        return sum(job.shipped and "version" in job.registration for job in self.jobs)

    @property
    def experiments(self) -> int:
        """Number of jobs that passed and are logged as runs of experiments, without a version."""
        return sum(job.shipped and "version" not in job.registration for job in self.jobs)


def collect(
    jobs: Mapping[str, Mapping[str, str]],
    models_dir: Path,
    registered: Path | None = None,
    data_dir: Path | None = None,
    checkpoints_dir: Path | None = None,
    left_out: Mapping[str, Mapping[str, str]] | None = None,
    promoted: Path | None = None,
    coverage: Path | None = None,
) -> Results:
    """Read the results of ``jobs``; ignore the folders of other jobs.

    Args:
        jobs: the requested jobs: ``{name: {model, target, artifact}}``.
        models_dir: the folder with one folder per model.
        registered: the file that the stage ``register`` writes; it need not exist.
        data_dir: the data set.
        checkpoints_dir: the folder with the training metrics, one file per model.
        left_out: see ``Results``.
        promoted: the file that the stage ``promote`` writes; it need not exist.
        coverage: the measured pairs of architectures and targets, ``docs/coverage.json``.

    Raises:
        DataError: a file is not JSON.
    """
    receipts, decisions = (_read(path) if path else {} for path in (registered, promoted))
    names = dict.fromkeys(job["model"] for job in jobs.values())
    models = {name: _model(name, models_dir / name, checkpoints_dir) for name in names}
    return Results(
        jobs=tuple(_job(name, job, models[job["model"]], receipts, decisions) for name, job in jobs.items()),
        models=tuple(models.values()),
        tracking_uri=receipts.get("tracking_uri", ""),
        dataset=_read(data_dir / "dataset.json") if data_dir else {},
        left_out=left_out or {},
        is_promoted=bool(decisions),
        coverage=_cells(coverage) if coverage and coverage.is_file() else (),
    )


def _model(name: str, folder: Path, checkpoints_dir: Path | None) -> ReportedModel:
    return ReportedModel(
        name=name,
        folder=folder,
        contract=_read(folder / "build" / "contract.json"),
        latency=_read(folder / "latency.json", read_latency),
        reference=_read(folder / "reference" / "reference.json"),
        floor=_read(folder / "noise_floor.json"),
        training=_read(checkpoints_dir / f"{name}.json") if checkpoints_dir else {},
        weights=_read(folder / "weights" / "load.json"),
    )


def _job(
    name: str,
    job: Mapping[str, str],
    model: ReportedModel,
    receipts: dict[str, Any],
    decisions: dict[str, Any],
) -> ReportedJob:
    target = job["target"]
    logged = [*receipts.get("registered", []), *receipts.get("experiments", [])]
    entries = [entry for entry in logged if entry["job"] == name]
    refusals = [entry["reasons"] for entry in receipts.get("refused", []) if entry["job"] == name]
    return ReportedJob(
        name=name,
        model=job["model"],
        target=target,
        parity=_read(model.folder / "parity" / f"{target}.json", read_parity_report),
        artifact=_read(model.folder / "artifacts" / job["artifact"] / MANIFEST),
        latency=runners_of(model.latency, target),
        diagnosis=_read(model.folder / "parity" / f"{target}_diagnosis" / "diagnosis.json"),
        registration=entries[0] if entries else {},
        refusals=tuple(reason for reasons in refusals for reason in reasons),
        certificate=_read(model.folder / "parity" / f"{target}_certificate.json"),
        decision=next((one for one in decisions.get("decisions", []) if one["job"] == name), {}),
    )


def _read(path: Path, read: Callable[[Path], dict[str, Any]] = read_object) -> dict[str, Any]:
    """Return a JSON file's value; ``{}`` if the file does not exist."""
    return read(path) if path.is_file() else {}


def _cells(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the cells of the measured coverage.

    Raises:
        DataError: the file is not JSON.
    """
    try:
        return tuple(read_json(path))
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read", got=error, expected="JSON", remedy="run `make coverage-docs` again"
        ) from error
