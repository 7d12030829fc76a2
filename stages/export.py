"""Export: model with weights -> artifact in a deployable format."""

from pathlib import Path
from typing import Annotated

import torch
from typer import Option, echo

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.contract import Contract
from detexport.errors import DataError
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.reference.store import read_reference
from detexport.system.digests import sha256_file
from detexport.system.files import read_json
from detexport.system.script import run
from stage import instantiate


def main(
    artifact: Annotated[str, Option()],
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write ARTIFACT of the model of BUILD with WEIGHTS into SAVE_DIR, recorded on a sample of REFERENCE."""
    method = instantiate(load_params(f"artifacts.{artifact}.method"))
    torch.manual_seed(0)
    net = build_model(load_cfg(build / "config.yaml")).eval()
    weights_file = weights / "model.safetensors"
    load_weights(net, read_state_dict(weights_file), str(weights_file))
    samples = [sample for sample in read_reference(reference).samples if sample.meta.traced]
    if not samples:
        raise DataError(f"{reference} marks no sample to record", remedy="run the reference stage again")
    exported = method.export(
        net,
        samples[0].image(),
        save_dir,
        contract=Contract.from_json(read_json(build / "contract.json")),
        provenance=Provenance(
            weights_sha256=sha256_file(weights_file), config_sha256=sha256_file(build / "config.yaml")
        ),
    )
    echo(f"{artifact}: {exported.format} {exported.sha256}")


if __name__ == "__main__":
    run(main, fixed_hashes=True)
