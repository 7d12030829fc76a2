"""Noise floor: how far the eager model lies from itself, so that no artifact is asked for more."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from torch import nn
from typer import Option

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.contract import Contract
from detexport.data.coco import load_coco, records_of
from detexport.engine.evaluation import evaluate_model
from detexport.metrics.evaluate import accuracy_deltas, annotation_kind
from detexport.modeling import build_model
from detexport.parity.noise_variants import measure_noise_floor
from detexport.reference.store import read_reference
from detexport.system.files import read_json, write_json
from detexport.system.script import run
from stage import instantiate


def main(
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
) -> None:
    """Write the noise floor of the model of BUILD with WEIGHTS, against its REFERENCE, to SAVE_TO.

    What TF32 costs is judged on DATA, where the eager model was.
    """
    params = load_params("parity")
    torch.set_num_threads(1)  # as the reference was made
    torch.manual_seed(0)
    net = build_model(load_cfg(build / "config.yaml")).eval()
    weights_file = weights / "model.safetensors"
    load_weights(net, read_state_dict(weights_file), str(weights_file))
    contract = Contract.from_json(read_json(build / "contract.json"))
    expected = read_reference(reference)

    def judge(other: nn.Module) -> dict[str, float]:
        assert expected.accuracy is not None
        dataset = load_coco(data, "val", load_params("data.categories"), annotation_kind(contract))
        judged = replace(dataset, images=tuple(records_of(dataset, expected.accuracy.image_ids)))
        reached = evaluate_model(other, judged, contract.oks_sigmas)
        return accuracy_deltas(expected.accuracy.metrics, reached.metrics)

    floor = measure_noise_floor(
        net,
        contract,
        expected,
        instantiate(params.tolerance),
        params.noise_floor_images,
        judge=judge if expected.accuracy else None,
        budget=params.budgets.tf32,
    )
    write_json(save_to, floor.to_json())


if __name__ == "__main__":
    run(main)
