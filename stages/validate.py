"""Validate: an artifact in its runtime against the eager model's stored detections -> a verdict.

A verdict is a result, also a bad one: the exit code stays 0. The model's own code is never imported here.
"""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.parity.reference import read_reference
from detexport.parity.validate import validate_artifact
from stage import instantiate, load_params, run


def main(
    job: Annotated[str, Option()],
    artifact_dir: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
    save_drawn_to: Annotated[Path, Option()],
) -> None:
    """Write JOB's verdict to SAVE_TO and the detections that the report draws to SAVE_DRAWN_TO."""
    parity = load_params("parity")
    engine = instantiate(load_params(f"targets.{load_params(f'jobs.{job}.target')}.runtime"))
    report = validate_artifact(
        engine,
        artifact_dir,
        read_reference(reference),
        instantiate(parity.tolerance),
        job=job,
        min_detections=parity.min_detections,
        draw=parity.draw,
    )
    report.save(save_to, save_drawn_to)
    echo(f"{job}: {'passed' if report.passed else 'did not pass'}")
    for reason in report.reasons:
        echo(f"  {reason}")


if __name__ == "__main__":
    run(main)
