"""Promote: decide by the promotion gate which versions become the champion; record each decision."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.params import load_values
from detexport.system.files import write_json
from detexport.system.script import run
from detexport.workflows.promote import promote_registered


def main(registered: Annotated[Path, Option()], save_to: Annotated[Path, Option()]) -> None:
    """Decide about the versions in REGISTERED and write the decisions to SAVE_TO."""
    outcome = promote_registered(registered, load_values("registry"))
    write_json(save_to, outcome)
    for one in outcome["decisions"]:
        version = f" version {one['version']}" if one["version"] else ""
        reason = f": {one['reasons'][0]}" if one["reasons"] else ""
        echo(f"{one['name']}{version}: {one['decision']}{reason}")


if __name__ == "__main__":
    run(main)
