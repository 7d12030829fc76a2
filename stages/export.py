"""Export: model with weights -> artifact in a deployable format."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.instantiation import instantiate
from detexport.config.params import load_params
from detexport.system.script import run
from detexport.workflows.export import export
from detexport.workflows.loaded_model import load_built_model
from detexport.workflows.sample_folder import read_sample


def main(
    artifact: Annotated[str, Option()],
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    sample: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write ARTIFACT of the model of BUILD with WEIGHTS, exported with the image of SAMPLE, into SAVE_DIR."""
    method = instantiate(load_params(f"artifacts.{artifact}.method"))
    exported = export(load_built_model(build, weights), {artifact: method}, read_sample(sample), save_dir)
    echo(f"{artifact}: {exported.format} {exported.sha256}")


if __name__ == "__main__":
    run(main, fixed_hashes=True)
