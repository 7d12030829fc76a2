"""Document the coverage: the cells of a whole run -> the documentation's table, and the cells as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from typer import Option

from coverage_table.cells import pairs_of
from coverage_table.table import render
from detexport.errors import DataError, listed
from detexport.system.atomic import atomic_file
from detexport.system.files import read_json, write_json
from detexport.system.script import run

EXPERIMENT = Path("conf/experiment/coverage.yaml")


def main(cells: Annotated[Path, Option()], save_dir: Annotated[Path, Option()]) -> None:
    """Copy CELLS to SAVE_DIR/coverage.json and render them as SAVE_DIR/coverage.md."""
    measured = read_json(cells)
    require_whole(measured, cells)
    write_json(save_dir / "coverage.json", measured)
    with atomic_file(save_dir / "coverage.md") as temporary:
        temporary.write_text(render(measured), encoding="utf-8")


def require_whole(measured: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Check that the cells are those of the whole table.

    Raises:
        DataError: they differ from those of the experiment.
    """
    expected = pairs_of(yaml.safe_load(EXPERIMENT.read_text(encoding="utf-8")))
    got = [(cell["model"], cell["target"]) for cell in measured]
    if got != expected:
        others = sorted({*got} ^ {*expected})
        raise DataError(
            f"{path} does not hold the whole table",
            got=f"{len(got)} cells; missing or unexpected: {listed(map('-'.join, others))}",
            expected=f"the {len(expected)} cells of {EXPERIMENT}",
            remedy="run `make coverage` without ONLY; known cells are not measured again",
        )


if __name__ == "__main__":
    run(main)
