"""Train: a model of a configuration on the data set -> a checkpoint and its average precision."""

import time
from pathlib import Path
from typing import Annotated

import torch
from typer import Option, echo

from detexport.checkpoint import write_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import load_coco
from detexport.engine.training import evaluate, seed_everything, train
from detexport.files import write_json
from detexport.modeling import build_model
from stage import instantiate, load_params, run


def main(
    model: Annotated[str, Option()],
    config_file: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    checkpoint: Annotated[Path, Option()],
    metrics: Annotated[Path, Option()],
) -> None:
    """Train MODEL on DATA; write CHECKPOINT and, measured on the validation split, METRICS."""
    settings = instantiate(load_params(f"models.{model}.training"))
    categories = load_params("data.categories")
    torch.set_num_threads(settings.threads)
    seed_everything(settings.seed)
    net = build_model(load_cfg(config_file))
    start = time.perf_counter()
    averaged = train(net, load_coco(data, "train", categories), settings)
    seconds = time.perf_counter() - start
    net.load_state_dict(averaged, strict=False)
    precision = evaluate(net, load_coco(data, "val", categories))
    write_state_dict(averaged, checkpoint)
    write_json(
        metrics, {**{name: round(value, 4) for name, value in precision.items()}, "train_s": round(seconds)}
    )
    for name, value in precision.items():
        echo(f"{name}: {value:.3f}")


if __name__ == "__main__":
    run(main)
