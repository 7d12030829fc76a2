"""Report: the selected jobs, their verdicts and measurements, as one page; written also if jobs failed."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.params import load_params, load_values
from detexport.report.collect import collect
from detexport.report.page import write_page
from detexport.report.recommend import Budget
from detexport.system.script import run


def main(
    models_dir: Annotated[Path, Option()],
    registered: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
    checkpoints_dir: Annotated[Path | None, Option()] = None,
    promoted: Annotated[Path | None, Option()] = None,
    coverage: Annotated[Path | None, Option()] = None,
) -> None:
    """Write the report on the selected jobs to SAVE_TO."""
    jobs, left_out = load_params("jobs"), load_params("left_out")
    results = collect(jobs, models_dir, registered, data, checkpoints_dir, left_out, promoted, coverage)
    budget, categories = Budget(**load_values("report.budget")), load_values("data.categories")
    write_page(results, save_to, budget=budget, data_dir=data, categories=categories)


if __name__ == "__main__":
    run(main)
