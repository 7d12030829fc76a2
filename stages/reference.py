"""Reference: the eager model's outputs on validation images, computed once and stored."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.params import load_values
from detexport.reference.input_kinds import Plan
from detexport.system.script import run
from detexport.workflows.loaded_model import load_built_model
from detexport.workflows.make_reference import make_reference_on


def main(
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write the outputs of the model of BUILD with WEIGHTS on images of DATA into SAVE_DIR."""
    images, accuracy_images = (load_values(f"parity.{name}") for name in ("images", "accuracy_images"))
    scales, inputs = load_values("parity.scales"), load_values("parity.inputs")
    make_reference_on(
        load_built_model(build, weights),
        data,
        Plan(scales=tuple(scales), **inputs),
        save_dir,
        images=images,
        accuracy_images=accuracy_images,
        categories=load_values("data.categories"),
    )


if __name__ == "__main__":
    run(main)
