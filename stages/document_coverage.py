"""Coverage, documented: the cells of a whole run -> the table of the documentation, and its record."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.coverage.table import render
from detexport.files import atomic_file, read_json, write_json
from stage import run


def main(cells: Annotated[Path, Option()], save_dir: Annotated[Path, Option()]) -> None:
    """Copy CELLS to SAVE_DIR/coverage.json and write SAVE_DIR/coverage.md of them."""
    measured = read_json(cells)
    write_json(save_dir / "coverage.json", measured)
    with atomic_file(save_dir / "coverage.md") as temporary:
        temporary.write_text(render(measured), encoding="utf-8")


if __name__ == "__main__":
    run(main)
