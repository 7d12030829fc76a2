"""Describe the data: number of images and of labels by class, which versions in the registry keep."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.params import load_values
from detexport.data.statistics import describe_labels
from detexport.system.files import write_json
from detexport.system.script import run


def main(data: Annotated[Path, Option()], save_to: Annotated[Path, Option()]) -> None:
    """Count the labels of the data set DATA and write SAVE_TO."""
    write_json(save_to, describe_labels(data, load_values("data.categories")))


if __name__ == "__main__":
    run(main)
