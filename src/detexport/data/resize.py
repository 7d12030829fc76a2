"""Resizing of input images, with numpy and PIL only."""

import numpy as np
from PIL import Image

from detexport.contract import ResizeRule
from detexport.errors import memory_guard


def resized_size(height: int, width: int, rule: ResizeRule, scale: float = 1.0) -> tuple[int, int]:
    """Return the height and width in px after a resize rule, as detectron2's ``ResizeShortestEdge`` does.

    Args:
        height: of the image, in px.
        width: of the image, in px.
        rule: the shortest edge becomes ``min_size`` unless the longest would exceed ``max_size``.
        scale: factor on the result of the rule before rounding (halves are rounded up).

    Raises:
        ValueError: a size or the scale is not positive.
    """
    if min(height, width, scale) <= 0:
        raise ValueError(f"sizes and scale are positive, got {height} x {width}, scale {scale}")
    sides = [float(height), float(width)]
    if rule.min_size > 0:
        shortest = min(sides)
        # The shortest edge is min_size exactly: at halves the last bit decides about a pixel.
        sides = [rule.min_size if s == shortest else s * (rule.min_size / shortest) for s in sides]
        if max(sides) > rule.max_size:
            sides = [side * (rule.max_size / max(sides)) for side in sides]
    new_height, new_width = (max(1, int(side * scale + 0.5)) for side in sides)
    return new_height, new_width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize with PIL's bilinear filter, which averages when it reduces the size.

    Args:
        image: uint8 (3, H, W).
        size: new height and width in px.

    Returns:
        uint8 (3, *size).

    Raises:
        ValueError: ``image`` is not uint8 (3, H, W).
        OutOfMemoryError: there is not enough memory.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image is uint8 (3, H, W), got {image.dtype} {image.shape}")
    if image.shape[1:] == tuple(size):
        return image
    height, width = size
    with memory_guard(image.shape):
        pixels = Image.fromarray(image.transpose(1, 2, 0))
        resized = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
