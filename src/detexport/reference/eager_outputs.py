"""Run the eager model; return its outputs in the form in which artifacts are compared."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from detexport.contract import Contract
from detexport.errors import ConfigError
from detexport.outputs import Outputs

Size = tuple[int, int]


def run_eager(net: Any, image: np.ndarray, output_size: Size, contract: Contract) -> Outputs:
    """Return the eager model's post-processed outputs of one image: see ``run_eager_batch``."""
    return run_eager_batch(net, [image], [output_size], contract)[0]


@torch.inference_mode()
def run_eager_batch(
    net: Any, images: Sequence[np.ndarray], output_sizes: Sequence[Size], contract: Contract
) -> list[Outputs]:
    """Run the eager model on images in one call; return the post-processed outputs of the contract.

    Intermediate values that no graph outputs, such as the heatmaps of keypoints, are left out.

    Args:
        net: the model, in evaluation mode.
        images: uint8 (3, H, W) each, the contract's channel order, resized; the model pads them to one size.
        output_sizes: height and width of the frame of each image's outputs, in px.
        contract: the model's.
    """
    examples = [
        {"image": torch.from_numpy(image), "height": height, "width": width}
        for image, (height, width) in zip(images, output_sizes, strict=True)
    ]
    return [_as_outputs(result, contract) for result in net(examples)]


def with_score_threshold(net: nn.Module, score_threshold: float) -> nn.Module:
    """Return a copy of a model with another score threshold; the model stays as it is.

    With a lower threshold the copy returns the same detections and more: NMS never drops a box for one of a
    lower score.

    Raises:
        ConfigError: no module of the model has a score threshold.
    """
    copied = deepcopy(net)
    modules = [module for module in copied.modules() if hasattr(module, "score_threshold")]
    if not modules:
        raise ConfigError(
            "the model has no score threshold",
            got=type(net).__name__,
            expected="a model whose contract has scores",
            remedy="change the threshold only of such models",
        )
    for module in modules:
        module.score_threshold = score_threshold  # type: ignore[assignment]
    return copied


def _as_outputs(result: dict[str, Any], contract: Contract) -> Outputs:
    outputs: Outputs = {}
    for rows in ("instances", "proposals"):
        if rows in contract.results:
            fields = result[rows].get_fields()
            outputs |= {name: _as_array(fields[name]) for name in contract.row_names}
    if "sem_seg" in contract.results:
        outputs["sem_seg"] = _as_array(result["sem_seg"])
    if "panoptic_seg" in contract.results:
        panoptic_seg, outputs["segments_info"] = result["panoptic_seg"]
        outputs["panoptic_seg"] = _as_array(panoptic_seg)
    return outputs


def _as_array(field: Any) -> np.ndarray:
    """Return the values of a tensor or of ``Boxes``."""
    array: np.ndarray = getattr(field, "tensor", field).cpu().numpy()
    return array
