"""Register the jobs that passed, with the artifact that passed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detexport.artifact import Artifact, read_artifact, read_verified
from detexport.errors import ArtifactError, DataError
from detexport.parity.certificate import certificate_faults, read_certificate
from detexport.parity.validation_plan import plan_weaknesses
from detexport.registry.aliases import point_challenger
from detexport.registry.content import Content
from detexport.registry.evidence import Evidence, Lineage, read_lineage
from detexport.registry.registry import Registry
from detexport.registry.settings import RegistrySettings, Release, weaker_plan
from detexport.registry.store import open_store
from detexport.results.latency import read_latency
from detexport.results.parity_report import read_parity_report
from detexport.system.redaction import redact


@dataclass(frozen=True)
class Job:
    """One model for one target, and the paths of its results.

    Args:
        name: the job's name; also the registered model's.
        model: name of the model.
        target: name of the target.
        artifact: name of the artifact that the target runs.
        runtime: the target's runtime, ``_target_`` and options.
        folder: the model's folder, with ``artifacts/``, ``parity/`` and ``latency.json`` in it.
        made_by: the pipeline's stages that made the artifact out of the model.
        license: licence of the model's weights; empty if it is not known.
    """

    name: str
    model: str
    target: str
    artifact: str
    runtime: dict[str, Any]
    folder: Path
    made_by: tuple[str, ...]
    license: str = ""

    @property
    def artifact_dir(self) -> Path:
        """The artifact as it was exported."""
        return self.folder / "artifacts" / self.artifact

    @property
    def stages(self) -> list[str]:
        """The names in ``dvc.lock`` of the stages that made the job's results."""
        of_model = ("build", "load_checkpoint", "sample", "reference", "noise_floor", "benchmark")
        return [
            *(f"{stage}@{self.model}" for stage in of_model),
            *self.made_by,
            f"validate@{self.name}",
        ]

    def evaluate(self) -> tuple[dict[str, Any], list[str]]:
        """Return the verdict and the reasons why the job must not be registered; none if it passed."""
        path = self.folder / "parity" / f"{self.target}.json"
        if not path.is_file():
            return {}, [f"not validated: there is no {path}"]
        verdict: dict[str, Any] = {}
        try:
            verdict = read_parity_report(path)
            artifact = read_verified(self.artifact_dir)
            faults = certificate_faults(
                self.certificate(), verdict, artifact, job=self.name, runtime=self.runtime
            )
            return verdict, faults
        except (ArtifactError, DataError) as error:
            return verdict, [redact(str(error))]

    def certificate(self) -> dict[str, Any]:
        """Read the job's certificate.

        Raises:
            DataError: the file is missing or was edited.
        """
        return read_certificate(self.folder / "parity" / f"{self.target}_certificate.json")

    def latency_of(self, artifact: Artifact) -> dict[str, Any] | None:
        """Return the model's latency report, or None if it did not measure this artifact."""
        path = self.folder / "latency.json"
        if not path.is_file():
            return None
        latency = read_latency(path)
        return latency if latency["artifacts"].get(self.target) == artifact.sha256 else None


def register_jobs(
    jobs: Sequence[Job],
    *,
    workspace: Path,
    checkout: Path,
    settings: RegistrySettings,
    dvc_experiment: str = "",
    data_statistics: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Register the jobs that passed: releases as versions, others as runs; report why jobs were refused.

    Args:
        jobs: all jobs.
        workspace: the folder that holds the registry, unless it is a server.
        checkout: the folder in which the pipeline runs; the workspace, or a temporary clone of it.
        settings: the store, and what is a release.
        dvc_experiment: name of the DVC experiment that runs the pipeline; empty if there is none.
        data_statistics: number of images and labels of the data set; None if they were not counted.

    Returns:
        ``{"tracking_uri", "registered": [...], "experiments": [...], "refused": [...]}``. A second run with
        the same jobs returns the same.

    Raises:
        RegistryError: the registry cannot be reached or refuses a request.
    """
    outcome: dict[str, list[dict[str, Any]]] = {"registered": [], "experiments": [], "refused": []}
    lineage = read_lineage(checkout)
    with open_store(workspace, tracking_uri=settings.tracking_uri, experiment=settings.experiment) as store:
        registry = Registry(store)
        registry.remove_leftovers(settings.experiments)
        for job in tqdm(jobs, desc="register", unit="job"):
            kind, entry = _register(registry, job, lineage, settings, dvc_experiment, data_statistics)
            outcome[kind].append(entry)
    return {"tracking_uri": store.public_uri, **outcome}


def _register(
    registry: Registry,
    job: Job,
    lineage: Lineage,
    settings: RegistrySettings,
    dvc_experiment: str,
    data_statistics: Mapping[str, Any] | None,
) -> tuple[str, dict[str, Any]]:
    """Register one job; return the list that its entry belongs to, and the entry."""
    verdict, reasons = job.evaluate()
    if reasons:
        return "refused", {"job": job.name, "reasons": reasons}
    certificate = job.certificate()
    weaknesses = plan_weaknesses(certificate["plan"], settings.plan)
    if settings.release is True and weaknesses:
        return "refused", {"job": job.name, "reasons": [weaker_plan(weaknesses)]}
    artifact = read_artifact(job.artifact_dir)
    content = Content(artifact, job.runtime)
    trained = [f"train@{job.model}", f"fine_tune@{job.model}"]
    evidence = Evidence(
        job.target,
        verdict,
        job.latency_of(artifact),
        certificate,
        lineage=lineage.describe(job.stages, trained),
        reference=job.folder / "reference",
        drawn=job.folder / "parity" / f"{job.target}_drawn.npz",
        versions=lineage.versions,
        entries=lineage.digests(job.stages, trained),
        data=lineage.data_of(f"validate@{job.name}"),
        license=job.license,
        data_statistics=data_statistics,
    )
    entry = {
        "job": job.name,
        "model": job.model,
        "target": job.target,
        "name": job.name,
        "artifact_sha256": artifact.sha256,
    }
    reason = no_release_reason(settings.release, weaknesses, dvc_experiment)
    if reason:
        run_id = registry.log_experiment(
            job.name, job.artifact_dir, content, evidence, experiment=settings.experiments, reason=reason
        )
        return "experiments", {
            **entry,
            "experiment": settings.experiments,
            "run_id": run_id,
            "reason": reason,
            "dvc_experiment": dvc_experiment,
        }
    version = registry.register(job.name, job.artifact_dir, content, evidence)
    point_challenger(registry.client, job.name)
    return "registered", {**entry, "version": version, **registry.origin(job.name, version)}


def no_release_reason(release: Release, weaknesses: Sequence[str], dvc_experiment: str) -> str:
    """Return why a job that passed is not a release; empty if it is.

    Args:
        release: ``registry.release``.
        weaknesses: in what its validation plan is weaker than required.
        dvc_experiment: name of the DVC experiment that runs the pipeline; empty if there is none.
    """
    if release is True:
        return ""
    if release is False:
        return "registry.release is false"
    if dvc_experiment:
        return (
            f"it is the DVC experiment {dvc_experiment}; `make repro` in your checkout registers a release, "
            "and so does `-S registry.release=true`"
        )
    return weaker_plan(weaknesses) if weaknesses else ""
