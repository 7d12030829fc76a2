"""Reference: the eager model's outputs on validation images, computed once and stored."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn
from tqdm import tqdm
from typer import Option

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import load_coco
from detexport.engine.evaluation import judge_model, spread
from detexport.errors import DataError
from detexport.files import read_json
from detexport.metrics.judge import annotation_kind
from detexport.metrics.tallies import pack_tallies
from detexport.modeling import build_model
from detexport.parity.eager import run_eager_batch, with_score_threshold
from detexport.parity.inputs import Plan, Probe, Run, inputs, probed_threshold
from detexport.parity.outputs import Outputs
from detexport.parity.pictures import Size
from detexport.parity.reference import EagerQuality, write_reference
from stage import load_params, run


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
    sigmas = tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    plan = Plan(scales=tuple(params.scales), **OmegaConf.to_container(params.inputs))  # type: ignore[arg-type]
    progress = tqdm(total=plan.most_runs(len(chosen), contract), desc="reference", unit="run")
    run_eager, probe = running(net, contract, progress), probing(net, contract, progress)
    write_reference(
        save_dir,
        inputs(chosen, contract, plan, run_eager, probe),
        contract=contract,
        quality=measure_eager(net, contract, data, sigmas) if params.quality_images else None,
        environment={
            "threads": torch.get_num_threads(),
            "dtype": "float32",
            "versions": {
                package: version(package) for package in ("detexport", "torch", "torchvision", "numpy")
            },
        },
    )
    progress.close()


def measure_eager(net: nn.Module, contract: Contract, data: Path, sigmas: tuple[float, ...]) -> EagerQuality:
    """How good the eager model is on annotated images, which every target is held to."""
    dataset = load_coco(data, "val", load_params("data.categories"), annotation_kind(contract))
    chosen = spread(dataset, load_params("parity.quality_images"))
    judged = judge_model(net, chosen, sigmas)
    return EagerQuality(judged.metrics, judged.image_ids, sigmas, pack_tallies(judged.tallies))


def running(net: nn.Module, contract: Contract, progress: tqdm) -> Run:
    """The eager model on images in one call; every run is a step of PROGRESS."""

    def run_images(images: Sequence[np.ndarray], output_sizes: Sequence[Size]) -> list[Outputs]:
        progress.update()
        return run_eager_batch(net, images, output_sizes, contract)

    return run_images


def probing(net: nn.Module, contract: Contract, progress: tqdm) -> Probe | None:
    """Scores of a copy of the model with a lower threshold; none where the model gives no scores."""
    if "scores" not in contract.row_names:
        return None
    lowered = with_score_threshold(net, probed_threshold(contract))

    def scores(image: np.ndarray) -> np.ndarray:
        progress.update()
        (outputs,) = run_eager_batch(lowered, [image], [image.shape[1:]], contract)
        found: np.ndarray = outputs["scores"]
        return found

    return scores


if __name__ == "__main__":
    run(main)
