"""Images made of images, in numpy alone."""

from collections.abc import Iterator, Sequence

import numpy as np

from detexport.data.resize import resize_image

Size = tuple[int, int]
"""Height and width in px."""


def plain(size: Size, color: Sequence[float]) -> np.ndarray:
    """Return one color everywhere: uint8 (3, *size); ``color`` is one value, or one a channel, 0..255."""
    image = np.empty((3, *size), np.uint8)
    image[:] = np.round(np.broadcast_to(np.asarray(color, np.float64), 3)).astype(np.uint8)[:, None, None]
    return image


def noise(size: Size, seed: int = 0) -> np.ndarray:
    """Return an image of independent, uniform values 0..255: uint8 (3, *size)."""
    return np.random.default_rng(seed).integers(0, 256, (3, *size), np.uint8)


def mosaic(images: Sequence[np.ndarray], rows: int, columns: int, size: Size) -> np.ndarray:
    """Lay images side by side, again from the first where there are too few, each stretched to its cell.

    Args:
        images: uint8 (3, H, W) each, at least one.
        rows: number of cells below one another.
        columns: number of cells beside one another.
        size: height and width of all of it, in px, at least a px a cell.
    """
    made = np.empty((3, *size), np.uint8)
    tops = [row * size[0] // rows for row in range(rows + 1)]
    lefts = [column * size[1] // columns for column in range(columns + 1)]
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        top, bottom, left, right = tops[row], tops[row + 1], lefts[column], lefts[column + 1]
        image = images[cell % len(images)]
        made[:, top:bottom, left:right] = resize_image(image, (bottom - top, right - left))
    return made


class Blend:
    """A path from one image to another in steps that are as small as pixels allow.

    Every value takes its next step at a fraction of its own, as in an ordered dither, so that a model's
    scores change by as little as they can where the fraction does.

    Args:
        first: uint8 (3, H, W), the image at fraction 0.
        second: likewise, at fraction 1.
        seed: draws the offset of each value's steps.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, seed: int = 0) -> None:
        self.first = first.astype(np.float64)
        self.step = second - self.first
        # In float32 the largest is so far below 1 that no sum is rounded up to the next value.
        self.offsets = np.random.default_rng(seed).random(first.shape, np.float32)

    def __call__(self, fraction: float) -> np.ndarray:
        """Return the image at a fraction in [0, 1] of the path: uint8 (3, H, W)."""
        image: np.ndarray = np.floor(self.first + fraction * self.step + self.offsets).astype(np.uint8)
        return image


def fitting(size: Size, most_px: float) -> Size:
    """Return ``size``, or the largest of its shape that has no more than ``most_px`` pixels."""
    factor = min(1.0, (most_px / (size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def grids(count: int) -> Iterator[int]:
    """Yield the cells a side of ``count`` mosaics, each with more of them: 2, 3, 5, 8, ..."""
    side, larger = 2, 3
    for _ in range(count):
        yield side
        side, larger = larger, side + larger
