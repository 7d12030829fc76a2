"""Register: artifacts that passed become versions in the model registry, or runs; others are refused."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.params import load_values
from detexport.results.digests import remove_other_jobs
from detexport.system.files import read_json, write_json
from detexport.system.script import run
from detexport.workflows.register import register


def main(
    models_dir: Annotated[Path, Option()],
    digests_dir: Annotated[Path, Option(help="one file per job; those of other jobs are removed")],
    data_statistics: Annotated[Path, Option(help="of the stage describe_data")],
    receipts: Annotated[Path, Option()],
) -> None:
    """Register the jobs of MODELS_DIR and write RECEIPTS."""
    names = ("jobs", "targets", "conversions", "models", "registry")
    jobs, targets, conversions, models, registry = map(load_values, names)
    remove_other_jobs(digests_dir, jobs)
    statistics = read_json(data_statistics)
    outcome = register(models_dir, jobs, targets, conversions, models, registry, statistics)
    write_json(receipts, outcome)
    for entry in outcome["registered"]:
        echo(f"{entry['job']}: {entry['name']} version {entry['version']}")
    for entry in outcome["experiments"]:
        run_of = f"run {entry['run_id']} in {entry['experiment']}"
        echo(f"{entry['job']}: {run_of}, not a release: {entry['reason']}")
    for entry in outcome["refused"]:
        echo(f"{entry['job']}: refused: {entry['reasons'][0]}")


if __name__ == "__main__":
    run(main)
