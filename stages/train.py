"""Train: a model of a configuration on the data set -> a checkpoint and its average precision."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.config.instantiate import instantiate
from detexport.config.params import load_params, load_values
from detexport.system.script import run
from detexport.workflows.train import train_model


def main(
    model: Annotated[str, Option()],
    config_file: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    checkpoint: Annotated[Path, Option()],
    metrics: Annotated[Path, Option()],
) -> None:
    """Train MODEL on DATA; write CHECKPOINT and, measured on the validation split, METRICS."""
    quality = train_model(
        config_file,
        data,
        instantiate(load_params(f"models.{model}.training")),
        checkpoint=checkpoint,
        metrics=metrics,
        categories=load_values("data.categories"),
    )
    for name, value in quality.items():
        echo(f"{name}: {value:.3f}")


if __name__ == "__main__":
    run(main)
