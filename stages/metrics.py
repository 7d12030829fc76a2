"""Metrics: the few numbers of a job that DVC compares, and the digests of all its results."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.params import load_params
from detexport.results.digests import write_digests
from detexport.results.summary import summarize
from detexport.system.files import write_json
from detexport.system.script import run


def main(
    job: Annotated[str, Option()],
    artifact_dir: Annotated[Path, Option()],
    verdict: Annotated[Path, Option()],
    latency: Annotated[Path, Option()],
    results: Annotated[list[Path], Option(help="what the last stages read of this job, beside these")],
    save_to: Annotated[Path, Option()],
    save_digests_to: Annotated[Path, Option()],
) -> None:
    """Write the summary of JOB to SAVE_TO, and the digest of each of its results to SAVE_DIGESTS_TO."""
    summary = summarize(load_params(f"jobs.{job}").target, artifact_dir, verdict, latency)
    write_json(save_to, summary)
    write_digests([artifact_dir, verdict, latency, *results], save_digests_to)
    echo(f"{job}: " + ", ".join(f"{name} {value}" for name, value in summary.items()))


if __name__ == "__main__":
    run(main)
