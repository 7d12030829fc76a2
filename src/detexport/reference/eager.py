"""The eager model's outputs, by the names and in the form that artifacts are compared in."""

from collections.abc import Sequence
from copy import deepcopy
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from detexport.contract import Contract
from detexport.errors import ConfigError
from detexport.outputs import Outputs

Size = tuple[int, int]


PACKAGES = ("detexport", "torch", "torchvision", "numpy")
"""What the eager model's outputs depend on."""


def versions() -> dict[str, str]:
    """Of the packages that the eager model's outputs depend on."""
    return {package: version(package) for package in PACKAGES}


def run_eager(net: Any, image: np.ndarray, output_size: Size, contract: Contract) -> Outputs:
    """The eager model's post-processed outputs of one image: see ``run_eager_batch``."""
    return run_eager_batch(net, [image], [output_size], contract)[0]


@torch.inference_mode()
def run_eager_batch(
    net: Any, images: Sequence[np.ndarray], output_sizes: Sequence[Size], contract: Contract
) -> list[Outputs]:
    """The eager model's post-processed outputs of images in one call, those that the contract names.

    Not all that it gives: no graph gives intermediate values such as the heatmaps of keypoints.

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
    """A copy of a model that gives detections of another score threshold; the model stays as it is.

    With a lower one it gives the same detections and some more: no box loses against one of a lower score.

    Raises:
        ConfigError: no part of the model has a score threshold.
    """
    copied = deepcopy(net)
    parts = [part for part in copied.modules() if hasattr(part, "score_threshold")]
    if not parts:
        raise ConfigError(
            "the model has no score threshold",
            got=type(net).__name__,
            expected="a model of detections",
            remedy="ask only where the contract names scores",
        )
    for part in parts:
        part.score_threshold = score_threshold  # type: ignore[assignment]
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
    """The values of a tensor or of ``Boxes``."""
    array: np.ndarray = getattr(field, "tensor", field).cpu().numpy()
    return array
