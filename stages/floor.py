"""Floor: how far the eager model lies from itself, so that no artifact is asked for more."""

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
from typer import Option

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.errors import DataError
from detexport.files import read_json, write_json
from detexport.modeling import build_model
from detexport.parity.eager import run_eager
from detexport.parity.floor import Floor, choose_samples, measure_variant
from detexport.parity.reference import read_reference
from detexport.parity.variants import NO_NOISE, most_threads, variants
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
    samples = choose_samples(read_reference(reference), params.floor_images)
    if not samples:
        raise DataError(f"{reference} has no sample of one image", remedy="run the reference stage again")
    tolerance = instantiate(params.tolerance)
    measured = {}
    for name, open_variant in variants().items():
        with open_variant(net) as other:
            run_other = partial(run_eager, other, contract=contract)
            measured[name] = measure_variant(
                run_other, samples, tolerance, contract, name=name, counts=name not in NO_NOISE
            )
    floor = Floor(tuple(sample.meta.id for sample in samples), environment(), measured)
    write_json(save_to, floor.to_json())


def environment() -> dict[str, object]:
    """What the numbers may depend on."""
    return {
        "threads": most_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {package: version(package) for package in ("detexport", "torch", "torchvision", "numpy")},
    }


if __name__ == "__main__":
    run(main)
