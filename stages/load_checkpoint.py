"""Load checkpoint: any supported file, checked against the built model -> safetensors and a load report."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.params import load_params, load_values
from detexport.system.files import is_url
from detexport.system.script import run
from detexport.workflows.load_checkpoint import load_checkpoint


def main(
    model: Annotated[str, Option()],
    build: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Match the checkpoint of MODEL with the parameters in BUILD, and write the weights into SAVE_DIR."""
    weights, checkpoint = load_params(f"models.{model}.weights"), Path(load_params(f"checkpoints.{model}"))
    option = f"models.{model}.new_parameters"
    source = weights.partition("?")[0] if is_url(weights) else checkpoint.name
    report = load_checkpoint(
        checkpoint, build, save_dir, source=source, new_parameters=load_values(option), option=option
    )
    exceptions = report.describe() or "no missing or unexpected parameters"
    echo(f"{source}: {len(report.loaded)} tensors; {exceptions}")


if __name__ == "__main__":
    run(main)
