"""Publish: the report becomes an artifact of the runs in the model registry."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.params import load_values
from detexport.system.files import write_json
from detexport.system.script import run
from detexport.workflows.publish import publish_report


def main(
    registered: Annotated[Path, Option()],
    report: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
) -> None:
    """Store REPORT with the runs of the jobs in REGISTERED."""
    published = publish_report(registered, report, load_values("registry"))
    write_json(save_to, published)
    echo(f"the report is in {len(published['runs'])} runs")


if __name__ == "__main__":
    run(main)
