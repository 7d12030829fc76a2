"""Register the jobs that passed, with the artifact that passed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detexport.artifact import Artifact, read_artifact, read_verified
from detexport.errors import ArtifactError, DataError
from detexport.parity.certificate import certificate_faults, read_certificate
from detexport.registry.content import Content
from detexport.registry.evidence import Evidence, Lineage, read_lineage
from detexport.registry.registry import Registry
from detexport.registry.store import open_store
from detexport.results.latency import read_latency
from detexport.results.verdict import read_verdict
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
    """

    name: str
    model: str
    target: str
    artifact: str
    runtime: dict[str, Any]
    folder: Path
    made_by: tuple[str, ...]

    @property
    def artifact_dir(self) -> Path:
        """The artifact as it was exported."""
        return self.folder / "artifacts" / self.artifact

    @property
    def stages(self) -> list[str]:
        """The names in ``dvc.lock`` of the stages that made the job's results."""
        of_model = ("build", "load_checkpoint", "sample", "reference", "floor", "benchmark")
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
            verdict = read_verdict(path)
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
    jobs: Sequence[Job], *, workspace: Path, checkout: Path, tracking_uri: str | None, experiment: str
) -> dict[str, Any]:
    """Register the jobs that passed, and report why the others were refused.

    Args:
        jobs: all jobs.
        workspace: the folder that holds the registry, unless it is a server.
        checkout: the folder in which the pipeline runs; the workspace, or a temporary clone of it.
        tracking_uri: MLflow's tracking URI; None selects the workspace's own store.
        experiment: name of the MLflow experiment for the runs.

    Returns:
        ``{"tracking_uri", "registered": [...], "refused": [...]}``. A second run with the same jobs returns
        the same.

    Raises:
        RegistryError: the registry cannot be reached or refuses a request.
    """
    registered, refused = [], []
    lineage = read_lineage(checkout)
    with open_store(workspace, tracking_uri=tracking_uri, experiment=experiment) as store:
        registry = Registry(store)
        registry.remove_leftovers()
        for job in tqdm(jobs, desc="register", unit="job"):
            verdict, reasons = job.evaluate()
            if reasons:
                refused.append({"job": job.name, "reasons": reasons})
            else:
                registered.append(_register(registry, job, verdict, lineage))
    return {"tracking_uri": store.public_uri, "registered": registered, "refused": refused}


def _register(registry: Registry, job: Job, verdict: dict[str, Any], lineage: Lineage) -> dict[str, str]:
    artifact = read_artifact(job.artifact_dir)
    content = Content(artifact, job.runtime)
    tags = lineage.describe(job.stages, optional=[f"train@{job.model}"])
    evidence = Evidence(job.target, verdict, job.latency_of(artifact), job.certificate(), tags)
    version = registry.register(job.name, job.artifact_dir, content, evidence)
    return {
        "job": job.name,
        "model": job.model,
        "target": job.target,
        "name": job.name,
        "version": version,
        "artifact_sha256": artifact.sha256,
    }
