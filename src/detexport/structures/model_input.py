"""Checks of the inputs of a detection model."""

import operator
from typing import Any

import torch
from torch import Tensor

from detexport.contract import MAX_SIDE
from detexport.errors import InputError


def checked_image(example: Any, index: int, channels: int) -> Tensor:
    """Check one input and return its image.

    Args:
        example: a dict with ``image``, (C, H, W), values 0..255 of any real dtype, and optionally ``height``
            and ``width``: see ``output_size``.
        index: of the input in the batch, for errors.
        channels: C.

    Raises:
        InputError: the input has another form.
    """
    if not isinstance(example, dict) or not isinstance(example.get("image"), Tensor):
        got = type(example).__name__
        if isinstance(example, dict):
            got = type(example["image"]).__name__ if "image" in example else f"keys {sorted(example)}"
        raise InputError(
            f"input {index} has no image",
            got=got,
            expected="a dict with a tensor (C, H, W) under 'image'",
            remedy="convert an (H, W, C) array with torch.as_tensor(array.transpose(2, 0, 1).copy())",
        )
    image: Tensor = example["image"]
    if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
        raise InputError(
            f"image {index} has a wrong shape",
            got=tuple(image.shape),
            expected=f"({channels}, height, width), at least 1 px high and wide",
            remedy="give one dict per image, with the channels first",
        )
    if image.dtype == torch.bool or image.is_complex():
        raise InputError(
            f"image {index} has an unsupported dtype",
            got=image.dtype,
            expected="values 0..255 as torch.uint8 or another real dtype",
        )
    if image.is_floating_point() and not torch.isfinite(image).all():
        raise InputError(
            f"image {index} has values that are not finite",
            got=f"{int((~torch.isfinite(image)).sum())} times NaN or infinity",
            expected="values 0..255",
        )
    output_size(example)
    return image


def output_size(example: dict[str, Any]) -> tuple[int, int]:
    """Return the height and width in px of the output that an input requests, by default those of its image.

    Raises:
        InputError: only one of them is given, or one is not an integer from 1 to ``MAX_SIDE``.
    """
    if "height" not in example and "width" not in example:
        return example["image"].shape[1], example["image"].shape[2]
    try:
        height, width = operator.index(example["height"]), operator.index(example["width"])
        if 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE:
            return height, width
    except (KeyError, TypeError):
        pass
    raise InputError(
        "an input must have both height and width of the output, or neither",
        got=", ".join(f"{key}: {example[key]!r}" for key in ("height", "width") if key in example),
        expected=f"two positive integers of px, at most {MAX_SIDE}",
    )
