"""Noise floor: the errors between the eager model's own runs, to which the tolerance is widened."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.config.instantiation import instantiate
from detexport.config.params import load_params, load_values
from detexport.system.files import write_json
from detexport.system.script import run
from detexport.workflows.loaded_model import load_built_model
from detexport.workflows.measure_noise import measure_noise


def main(
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
) -> None:
    """Write the noise floor of the model of BUILD with WEIGHTS, against its REFERENCE, to SAVE_TO."""
    floor = measure_noise(
        load_built_model(build, weights),
        reference,
        data,
        tolerance=instantiate(load_params("parity.tolerance")),
        images=load_params("parity.noise_floor_images"),
        categories=load_values("data.categories"),
        tf32_budget=load_params("parity.budgets.tf32"),
    )
    write_json(save_to, floor.to_json())


if __name__ == "__main__":
    run(main)
