"""Prepare data: the synthetic set or the user's own, in the standard layout."""

from pathlib import Path

from detexport.config.instantiation import instantiate
from detexport.config.params import load_params
from detexport.system.script import run


def main(save_dir: Path) -> None:
    """Write the data set of ``data.dataset`` into SAVE_DIR."""
    instantiate(load_params("data.dataset")).write(save_dir)


if __name__ == "__main__":
    run(main)
