"""Load checkpoint: any supported file, checked against the built model -> safetensors and a load report."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from typer import Option, echo

from detexport.checkpoint import match_weights, read_state_dict, write_state_dict
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.modeling import build_model
from detexport.system.atomic import atomic_dir
from detexport.system.digests import sha256_file
from detexport.system.files import is_url, read_json, write_json
from detexport.system.script import run

SEED = 0


def main(
    model: Annotated[str, Option()],
    build: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write what MODEL, built in BUILD, needs of its checkpoint into SAVE_DIR; all of it or nothing."""
    params = load_params(f"models.{model}")
    checkpoint = Path(load_params(f"checkpoints.{model}"))
    option = f"models.{model}.new_parameters"
    fitting, report = match_weights(
        read_state_dict(checkpoint),
        **read_json(build / "parameters.json"),
        new_parameters=list(params.new_parameters),
        option=option,
    )
    given = params.weights.partition("?")[0] if is_url(params.weights) else checkpoint.name
    report.raise_if_incomplete(given, option=option)
    with atomic_dir(save_dir) as folder:
        initial = initial_values(build, report.new_keys)
        write_state_dict({**initial, **fitting}, folder / "model.safetensors")
        source = {"file": given, "sha256": sha256_file(checkpoint)}
        write_json(folder / "load.json", {"source": source, **report.to_json()})
    told = report.describe() or "nothing is missing or left over"
    echo(f"{given}: {len(report.loaded)} tensors; {told}")


def initial_values(build: Path, names: Collection[str]) -> dict[str, Tensor]:
    """What NAMES are before any training, the same every time."""
    if not names:
        return {}
    torch.manual_seed(SEED)
    state = build_model(load_cfg(build / "config.yaml")).state_dict()
    return {name: state[name] for name in names}


if __name__ == "__main__":
    run(main)
