"""Download: a checkpoint from its address -> a file, compared with its digest."""

import shutil
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.checkpoint import fetch
from detexport.config.params import load_params
from detexport.system.atomic import atomic_file
from detexport.system.digests import sha256_file
from detexport.system.script import run


def main(model: Annotated[str, Option()], save_to: Annotated[Path, Option()]) -> None:
    """Write the file at the address of MODEL's weights to SAVE_TO."""
    cached = fetch(load_params(f"models.{model}").weights)
    with atomic_file(save_to) as temporary:
        shutil.copyfile(cached, temporary)
    echo(f"{save_to}: sha256={sha256_file(save_to)}")


if __name__ == "__main__":
    run(main)
