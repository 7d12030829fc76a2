"""Plots: accuracy against latency, latencies and accuracy by class, as SVG files that DVC compares."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.params import load_values
from detexport.report.collect import collect
from detexport.report.plots import write_plots
from detexport.results.digests import remove_other_jobs
from detexport.system.script import run


def main(
    models_dir: Annotated[Path, Option()],
    digests_dir: Annotated[Path, Option(help="one file per job; those of other jobs are removed")],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Draw the selected jobs into SAVE_DIR."""
    jobs, budget = load_values("jobs"), load_values("report.budget")
    remove_other_jobs(digests_dir, jobs)
    write_plots(collect(jobs, models_dir), save_dir, ap_loss=budget["ap_loss"])


if __name__ == "__main__":
    run(main)
