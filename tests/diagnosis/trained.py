"""The small trained models, and what the diagnosis is tested on."""

from pathlib import Path
from typing import Any

import numpy as np

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import read_image
from detexport.data.image_samples import BUNDLED_SAMPLE
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.targets.table import artifact_chain, artifacts

ROOT = Path(__file__).parents[2]


def trained_model(name: str) -> Any:
    """One of conf/model's, in evaluation mode; each call gives one of its own."""
    folder = "torchvision" if name.startswith("torchvision") else "detectron2"
    config = ROOT / f"conf/{folder}/{name.removeprefix('torchvision_')}.yaml"
    model = build_model(load_cfg(config)).eval()
    weights = ROOT / f"checkpoints/{name}.safetensors"
    load_weights(model, read_state_dict(weights), str(weights))
    return model


def picture() -> np.ndarray:
    """Shapes, of a size that no stride divides."""
    return np.ascontiguousarray(read_image(BUNDLED_SAMPLE, "RGB")[:, :177, :241])


def contract_of(model: Any) -> Contract:
    contract: Contract = model.contract(tuple(map(str, range(model.num_classes))))
    return contract


def write(model: Any, method: str, folder: Path) -> Path:
    """The artifact of a method, those that it is made from beside it."""
    for name in artifact_chain(method):
        maker, source = artifacts()[name].maker.build(), artifacts()[name].source
        if source:
            maker.convert(folder / source, [picture()], folder / name)
        else:
            maker.export(
                model,
                picture(),
                folder / name,
                contract=contract_of(model),
                provenance=Provenance("weights", "config"),
            )
    return folder / method
