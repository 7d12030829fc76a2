"""The summary of one job out of the files that the stages wrote."""

from pathlib import Path

from detexport.artifact import read_artifact
from detexport.results.job_metrics import job_metrics, job_summary
from detexport.results.latency import read_latency, runners_of
from detexport.results.parity_report import read_parity_report


def summarize(target: str, artifact_dir: Path, verdict: Path, latency: Path) -> dict[str, float | bool]:
    """Return the summary of a job; see ``job_summary``.

    Args:
        target: the job's target.
        artifact_dir: the artifact.
        verdict: the parity report.
        latency: the model's latency report; one of another artifact is ignored.

    Raises:
        ArtifactError: there is no artifact.
        DataError: a report is missing or is not one.
    """
    artifact = read_artifact(artifact_dir)
    runners = runners_of(read_latency(latency), target, artifact.sha256)
    return job_summary(job_metrics(read_parity_report(verdict), runners, artifact.size_bytes(artifact_dir)))
