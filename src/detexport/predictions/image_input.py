"""An image as a program has it -> pixels in the channel order that a graph takes; free of torch."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from detexport.contract import MAX_SIDE
from detexport.data.images import ChannelOrder, image_to_array, read_image
from detexport.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

ImageInput: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"


def read_input(image: Any, channel_order: ChannelOrder, wanted: ChannelOrder) -> np.ndarray:
    """Return an image's pixels, uint8 (3, H, W).

    Args:
        image: the path of an image file, a PIL image, an array (H, W, 3) or a tensor (3, H, W), uint8, of any
            size.
        channel_order: of an array or a tensor; a file and a PIL image name their channels themselves.
        wanted: channel order of the result.

    Raises:
        InputError: it is none of these, or an array or a tensor of another shape or dtype.
        DataError: the image file or the PIL image cannot be read, or is too large.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), wanted)
    if isinstance(image, Image.Image):
        return image_to_array(image, wanted)
    if channel_order not in ("RGB", "BGR"):
        raise InputError("unknown channel order", got=repr(channel_order), expected="RGB or BGR")
    if isinstance(image, np.ndarray):
        pixels = _checked(image, "array", ("height", "width", 3)).transpose(2, 0, 1)
    elif _is_tensor(image):
        array = image.detach().cpu().numpy() if _is_uint8(image) else image
        pixels = _checked(array, "tensor", (3, "height", "width"))
    else:
        raise InputError(
            "this is not an image",
            got=type(image).__name__,
            expected="a path, a PIL image, a numpy array (height, width, 3), a torch tensor (3, height, "
            "width), or a list of dicts, the input of the eager model",
            remedy="give one image a call",
        )
    return np.ascontiguousarray(pixels if channel_order == wanted else pixels[::-1])


def _is_tensor(image: Any) -> bool:
    """Whether it is a torch tensor; there is none in a process that has not imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def _is_uint8(tensor: Any) -> bool:
    return str(tensor.dtype) == "torch.uint8"


def _checked(image: Any, kind: str, shape: tuple[int | str, ...]) -> np.ndarray:
    """Return an array that has the dtype and the shape of an image.

    Raises:
        InputError: it has not.
    """
    fits = len(image.shape) == len(shape) and all(
        got == want if isinstance(want, int) else 1 <= got <= MAX_SIDE
        for got, want in zip(image.shape, shape, strict=True)
    )
    if fits and isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return image
    raise InputError(
        f"the {kind} is not an image",
        got=f"{image.dtype} {tuple(image.shape)}",
        expected=f"uint8 ({', '.join(map(str, shape))}), sides of 1 to {MAX_SIDE} px",
        remedy=_remedy(image, kind, fits=fits),
    )


def _remedy(image: Any, kind: str, *, fits: bool) -> str:
    """Return what makes an image of an array that is none."""
    if fits:
        return "convert values 0..255 to uint8, multiply values 0..1 by 255 first; do not normalize them"
    if len(image.shape) == 4:
        return "give one image a call"
    moved = (image.shape[0] if kind == "array" else image.shape[-1]) if len(image.shape) == 3 else 0
    if moved == 3:
        return "image.transpose(1, 2, 0)" if kind == "array" else "image.permute(2, 0, 1)"
    return "convert the image to three colour channels"
