"""Require passed: the last stage. It fails unless every selected job passed and was registered or logged."""

from pathlib import Path
from typing import Annotated

from typer import Exit, Option, echo

from detexport.config.params import load_params
from detexport.errors import LONGEST_MESSAGE, printable, shortened
from detexport.report.collect import collect
from detexport.system.script import run

MOST_REASONS = 5


def main(models_dir: Annotated[Path, Option()], registered: Annotated[Path, Option()]) -> None:
    """Print every job's verdict; exit with 1 unless all passed and were registered."""
    results = collect(load_params("jobs"), models_dir, registered)
    jobs = results.jobs
    width = max((len(job.name) for job in jobs), default=0)
    for job in jobs:
        echo(f"{job.name:{width}}  {job.verdict:12}  {job.registered_as or '-'}")
    failed = [job for job in jobs if not job.shipped]
    for job in failed:
        for reason in job.reasons[:MOST_REASONS]:
            echo(shortened(printable(f"error: {job.name}: {reason}"), LONGEST_MESSAGE), err=True)
        if len(job.reasons) > MOST_REASONS:
            echo(f"error: {job.name}: and {len(job.reasons) - MOST_REASONS} more reasons", err=True)
    echo(
        f"{len(jobs) - len(failed)} of {len(jobs)} jobs passed: "
        f"{results.versions} registered, {results.experiments} logged as experiments"
    )
    if failed or not jobs:
        raise Exit(1)


if __name__ == "__main__":
    run(main)
