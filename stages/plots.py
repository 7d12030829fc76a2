"""Plots: accuracy against latency, latency distributions and AP per class, as pictures that DVC compares."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.params import load_values
from detexport.report.plots import draw_plots, read_jobs
from detexport.results.digests import remove_other_jobs
from detexport.system.script import run


def main(
    models_dir: Annotated[Path, Option()],
    digests_dir: Annotated[Path, Option(help="one file per job; those of other jobs are removed")],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Draw the selected jobs into SAVE_DIR."""
    jobs = load_values("jobs")
    remove_other_jobs(digests_dir, jobs)
    draw_plots(read_jobs(jobs, models_dir), save_dir)


if __name__ == "__main__":
    run(main)
