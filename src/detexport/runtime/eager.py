"""The eager model's interface around a session: convert its inputs to arrays and arrays to its outputs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from detexport.contract import Contract
from detexport.errors import InputError
from detexport.structures import Boxes, Instances, RotatedBoxes
from detexport.structures.model_input import checked_image, output_size

BOXES = ("pred_boxes", "proposal_boxes")
USED = ("image", "height", "width")
# Further keys of a mapped data set record, which the eager model ignores too.
CARRIED = (
    "annotations",
    "file_name",
    "image_id",
    "instances",
    "pan_seg_file_name",
    "segments_info",
    "sem_seg",
    "sem_seg_file_name",
)


def checked_examples(inputs: Any, contract: Contract) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Return each input's image, (3, H, W) uint8, and the height and width in px of its output.

    Raises:
        InputError: an input does not fit the eager model, or has keys or values that the graph cannot take.
    """
    if not isinstance(inputs, list | tuple) or not inputs:
        raise InputError(
            "a batch needs at least one image",
            got="none" if isinstance(inputs, list | tuple) else type(inputs).__name__,
            expected="a list of dicts, one per image",
        )
    channels = int(contract.inputs[0].shape[0])
    examples = []
    for index, example in enumerate(inputs):
        if isinstance(example, dict) and "image" in example:
            _refuse_unknown(example, index)
        image = checked_image(example, index, channels)
        examples.append((_as_uint8(image, index).detach().cpu().numpy(), output_size(example)))
    return examples


def _refuse_unknown(example: dict[str, Any], index: int) -> None:
    unknown = [key for key in example if key not in USED and key not in CARRIED]
    if unknown:
        raise InputError(
            f"input {index} has keys that the graph was not exported for",
            got=", ".join(map(str, unknown)),
            expected=f"{', '.join(USED)}; ignored: {', '.join(CARRIED)}",
            remedy="remove them: the graph computes its proposals itself"
            if any("proposal" in str(key) for key in unknown)
            else "remove them, or correct their names",
        )


def _as_uint8(image: Tensor, index: int) -> Tensor:
    """Convert an image to uint8, the graph's dtype, without changing its values.

    Raises:
        InputError: they are not whole numbers 0..255: the graph would see another image than the eager model.
    """
    if image.dtype == torch.uint8:
        return image
    converted = image.to(torch.uint8)
    if not torch.equal(converted.to(image.dtype), image):
        raise InputError(
            f"image {index} has values that the graph cannot take",
            got=f"{image.dtype} from {image.min().item():g} to {image.max().item():g}, not all of them whole "
            "numbers 0..255",
            expected="torch.uint8, or its values in another dtype",
            remedy="resize the image as uint8; do not normalize it, the graph does that",
        )
    return converted


def to_eager(fields: dict[str, Any], output_size: tuple[int, int]) -> dict[str, Any]:
    """Convert the post-processed arrays of one image to the eager model's structures of tensors.

    Args:
        fields: the result of ``detexport.processing.postprocess``.
        output_size: height and width in px.
    """
    values = {
        name: _as_boxes(torch.from_numpy(value)) if name in BOXES else torch.from_numpy(value)
        for name, value in fields.items()
        if name != "segments_info"
    }
    result: dict[str, Any] = {}
    if "panoptic_seg" in values:
        result["panoptic_seg"] = (values.pop("panoptic_seg"), fields["segments_info"])
    if "sem_seg" in values:
        result["sem_seg"] = values.pop("sem_seg")
    if values:
        rows = "proposals" if "proposal_boxes" in values else "instances"
        result[rows] = Instances(output_size, **values)
    return result


def _as_boxes(boxes: Tensor) -> Boxes | RotatedBoxes:
    """Return boxes (R, 4), or rotated boxes (R, 5), as the structure of the eager model."""
    return RotatedBoxes(boxes) if boxes.shape[1] == 5 else Boxes(boxes)
