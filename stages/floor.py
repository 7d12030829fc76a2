"""Floor: how far the eager model lies from itself, so that no artifact is asked for more."""

from pathlib import Path
from typing import Annotated

import torch
from typer import Option

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.files import read_json, write_json
from detexport.modeling import build_model
from detexport.parity.reference import read_reference
from detexport.parity.variants import measure_floor
from stage import instantiate, load_params, run


def main(
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
) -> None:
    """Write the noise floor of the model of BUILD with WEIGHTS, against its REFERENCE, to SAVE_TO."""
    params = load_params("parity")
    torch.set_num_threads(1)  # as the reference was made
    torch.manual_seed(0)
    net = build_model(load_cfg(build / "config.yaml")).eval()
    weights_file = weights / "model.safetensors"
    load_weights(net, read_state_dict(weights_file), str(weights_file))
    contract = Contract.from_json(read_json(build / "contract.json"))
    floor = measure_floor(
        net, contract, read_reference(reference), instantiate(params.tolerance), params.floor_images
    )
    write_json(save_to, floor.to_json())


if __name__ == "__main__":
    run(main)
