"""Train: a configuration and a data set -> a checkpoint and its metrics on the validation split."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.instantiation import instantiate
from detexport.config.params import load_params, load_values
from detexport.registry.location import find_workspace
from detexport.registry.settings import RegistrySettings
from detexport.system.script import run
from detexport.workflows.train import Start, Tracking, train_model


def main(
    model: Annotated[str, Option()],
    config_file: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    state_file: Annotated[Path, Option(help="from which a killed training continues")],
    checkpoint: Annotated[Path, Option()],
    metrics: Annotated[Path, Option()],
) -> None:
    """Train MODEL on DATA; write CHECKPOINT and, measured on the validation split, METRICS."""
    recipe, start = load_params(f"models.{model}.training"), load_values(f"fine_tunings.{model}")
    recipe.pop("from", None)
    quality = train_model(
        *(model, config_file, data, instantiate(recipe)),
        checkpoint=checkpoint,
        metrics=metrics,
        categories=load_values("data.categories"),
        start=Start(**start) if start else None,
        state_file=state_file,
        tracking=Tracking(find_workspace(), RegistrySettings.of(load_values("registry"))),
    )
    echo("\n".join(f"{name}: {value:.3f}" for name, value in quality.items()))


if __name__ == "__main__":
    run(main)
