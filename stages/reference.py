"""Reference: the eager model's outputs on validation images, computed once and stored."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from typer import Option

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import CocoRecord, load_coco, read_image
from detexport.data.resize import resize_image, resized_size
from detexport.engine.evaluation import judge_model, spread
from detexport.errors import DataError
from detexport.files import read_json
from detexport.metrics.judge import annotation_kind
from detexport.metrics.tallies import pack_tallies
from detexport.modeling import build_model
from detexport.parity.eager import run_eager
from detexport.parity.outputs import Outputs
from detexport.parity.reference import EagerQuality, SampleMeta, write_reference
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
    write_reference(
        save_dir,
        samples(net, contract, chosen, params.scales),
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


def measure_eager(net: nn.Module, contract: Contract, data: Path, sigmas: tuple[float, ...]) -> EagerQuality:
    """How good the eager model is on annotated images, which every target is held to."""
    dataset = load_coco(data, "val", load_params("data.categories"), annotation_kind(contract))
    chosen = spread(dataset, load_params("parity.quality_images"))
    judged = judge_model(net, chosen, sigmas)
    return EagerQuality(judged.metrics, judged.image_ids, sigmas, pack_tallies(judged.tallies))


def samples(
    net: nn.Module, contract: Contract, records: Sequence[CocoRecord], scales: Sequence[float]
) -> Iterator[tuple[SampleMeta, np.ndarray, Outputs]]:
    """Each image at each scale of the model's own size, with the eager model's outputs."""
    pairs = [(record, scale) for record in records for scale in scales]
    for record, scale in tqdm(pairs, desc="reference", unit="image"):
        image = read_image(record.file_name, contract.channel_order)
        size = resized_size(record.height, record.width, contract.resize, scale)
        meta = SampleMeta(
            id=f"{record.image_id:06d}-{scale:g}x",
            image_id=record.image_id,
            file=record.file_name.name,
            image_size=size,
            output_size=(record.height, record.width),
            scale=scale,
            traced=(record, scale) == pairs[0],
        )
        network_image = resize_image(image, size)
        yield meta, network_image, run_eager(net, network_image, meta.output_size, contract)


if __name__ == "__main__":
    run(main)
