"""Sample: the image that a model is exported with."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.params import load_values
from detexport.contract import Contract
from detexport.data.coco import load_coco
from detexport.system.files import read_json
from detexport.system.script import run
from detexport.workflows.make_sample import make_sample


def main(
    contract: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write an image of DATA, resized by the rule of CONTRACT, into SAVE_DIR."""
    dataset = load_coco(data, "val", load_values("data.categories"))
    make_sample(Contract.from_json(read_json(contract)), dataset, save_dir)


if __name__ == "__main__":
    run(main)
