"""Reference: the eager model's outputs on validation images, computed once and stored."""

from pathlib import Path
from typing import Annotated

import torch
from omegaconf import OmegaConf
from torch import nn
from typer import Option

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.contract import Contract
from detexport.data.coco import load_coco
from detexport.engine.evaluation import evaluate_model, spread
from detexport.errors import DataError
from detexport.metrics.evaluate import annotation_kind, or_without
from detexport.metrics.tallies import pack_tallies
from detexport.modeling import build_model
from detexport.reference.eager import versions
from detexport.reference.inputs import Plan
from detexport.reference.run import eager_samples
from detexport.reference.store import EagerAccuracy, write_reference
from detexport.system.files import read_json
from detexport.system.script import run


def main(
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write the outputs of the model of BUILD with WEIGHTS on images of DATA into SAVE_DIR."""
    params = load_params("parity")
    # One thread: the order of sums, and with it the last bits, does not depend on the number of cores.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = load_cfg(build / "config.yaml")
    net = build_model(cfg).eval()
    weights_file = weights / "model.safetensors"
    load_weights(net, read_state_dict(weights_file), str(weights_file))
    contract = Contract.from_json(read_json(build / "contract.json"))
    dataset = load_coco(data, "val", load_params("data.categories"))
    if not dataset.images:
        raise DataError(
            f"{dataset.annotation_file} lists no image",
            expected="at least one validation image",
            remedy="check the data set's val split",
        )
    chosen = spread(dataset, params.images).images
    plan = Plan(scales=tuple(params.scales), **OmegaConf.to_container(params.inputs))  # type: ignore[arg-type]
    write_reference(
        save_dir,
        eager_samples(net, contract, chosen, plan),
        contract=contract,
        accuracy=measure_eager(net, contract, data) if params.accuracy_images else None,
        environment={"threads": torch.get_num_threads(), "dtype": "float32", "versions": versions()},
    )


def measure_eager(net: nn.Module, contract: Contract, data: Path) -> EagerAccuracy:
    """How good the eager model is on annotated images, which every target is held to."""
    with or_without("-S parity.accuracy_images=0"):
        dataset = load_coco(data, "val", load_params("data.categories"), annotation_kind(contract))
        chosen = spread(dataset, load_params("parity.accuracy_images"))
        judged = evaluate_model(net, chosen, contract.oks_sigmas)
    return EagerAccuracy(judged.metrics, judged.image_ids, pack_tallies(judged.tallies))


if __name__ == "__main__":
    run(main)
