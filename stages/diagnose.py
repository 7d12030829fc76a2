"""Diagnose: an artifact that did not pass -> the first segment of the model whose outputs differ.

An artifact that passed is not diagnosed. A diagnosis that failed is a result, too.
"""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.instantiation import instantiate
from detexport.config.params import load_params
from detexport.system.files import read_json
from detexport.system.script import run
from detexport.workflows.diagnose import diagnose_job


def main(
    job: Annotated[str, Option()],
    artifact_dir: Annotated[Path, Option()],
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    sample: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    verdict: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write JOB's diagnosis, or that it passed according to VERDICT, into SAVE_DIR."""
    target = load_params(f"targets.{load_params(f'jobs.{job}.target')}")
    makers = load_params(f"export_steps.{target.artifact}").items()
    steps = [(name, instantiate(maker)) for name, maker in makers]
    engine, precision = instantiate(target.runtime), target.get("precision", "")
    folders = {"build": build, "weights": weights, "sample": sample, "reference": reference}
    outcome = diagnose_job(artifact_dir, read_json(verdict), steps, engine, precision, save_dir, **folders)
    echo(f"{job}: {outcome}")


if __name__ == "__main__":
    run(main, fixed_hashes=True)
