"""Validate: an artifact in its runtime against the eager model's stored outputs -> a verdict.

The exit code is 0 whatever the verdict. The model's code is never imported here.
"""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.instantiation import instantiate
from detexport.config.params import load_params, load_values
from detexport.parity.report_text import report_lines
from detexport.system.script import run
from detexport.workflows.reference_validation import ReportFiles
from detexport.workflows.validate_job import validate_job


def main(
    job: Annotated[str, Option()],
    artifact_dir: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    floor: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
    save_drawn_to: Annotated[Path, Option()],
    save_certificate_to: Annotated[Path, Option()],
) -> None:
    """Write JOB's verdicts to SAVE_TO, its certificate, and the outputs that the report draws."""
    target = f"targets.{load_params(f'jobs.{job}.target')}"
    engine = instantiate(load_params(f"{target}.runtime"))
    files = ReportFiles(save_to, save_drawn_to, save_certificate_to)
    settings = [load_values(name) for name in (target, "parity", "data.categories")]
    settings.append(instantiate(load_params("engine")))
    report = validate_job(job, artifact_dir, engine, reference, floor, data, files, *settings)
    echo("\n".join(report_lines(report)))


if __name__ == "__main__":
    run(main)
