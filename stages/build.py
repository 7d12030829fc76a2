"""Build: a configuration -> resolved, with the I/O contract and the parameters' names and shapes."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.params import load_values
from detexport.system.files import read_json
from detexport.system.script import run
from detexport.workflows.build import build


def main(
    model: Annotated[str, Option()],
    dataset: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write MODEL's configuration and what follows from it into SAVE_DIR; DATASET names the classes."""
    params = load_values(f"models.{model}")
    build(
        model,
        Path(params["config_file"]),
        save_dir,
        overrides=params["config"],
        class_names=params["class_names"],
        dataset=read_json(dataset),
        categories=load_values("data.categories"),
        fine_tuned=load_values(f"fine_tunings.{model}") is not None,
    )


if __name__ == "__main__":
    run(main)
