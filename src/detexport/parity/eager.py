"""The eager model's outputs, by the names and in the form that artifacts are compared in."""

from typing import Any

import numpy as np
import torch

from detexport.contract import Contract
from detexport.parity.outputs import Outputs


@torch.inference_mode()
def run_eager(net: Any, image: np.ndarray, output_size: tuple[int, int], contract: Contract) -> Outputs:
    """The eager model's post-processed outputs of one image, those that the contract names.

    Not all that it gives: no graph gives intermediate values such as the heatmaps of keypoints.

    Args:
        net: the model, in evaluation mode.
        image: uint8 (3, H, W), the contract's channel order, resized.
        output_size: height and width of the frame of the outputs, in px.
        contract: the model's.
    """
    height, width = output_size
    (result,) = net([{"image": torch.from_numpy(image), "height": height, "width": width}])
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
