"""Make blank images, noise, mosaics and blends, in numpy alone."""

from collections.abc import Iterator, Sequence

import numpy as np

from detexport.data.resize import resize_image

Size = tuple[int, int]
"""Height and width in px."""


def plain(size: Size, color: Sequence[float]) -> np.ndarray:
    """Return a blank image: uint8 (3, *size); ``color`` is one value, or one per channel, 0..255."""
    image = np.empty((3, *size), np.uint8)
    image[:] = np.round(np.broadcast_to(np.asarray(color, np.float64), 3)).astype(np.uint8)[:, None, None]
    return image


def noise(size: Size, seed: int = 0) -> np.ndarray:
    """Return an image of independent, uniform values 0..255: uint8 (3, *size)."""
    return np.random.default_rng(seed).integers(0, 256, (3, *size), np.uint8)


def mosaic(images: Sequence[np.ndarray], rows: int, columns: int, size: Size) -> np.ndarray:
    """Return a grid of images, each resized to its cell; the images repeat if there are more cells.

    Args:
        images: uint8 (3, H, W) each, at least one.
        rows: number of rows of cells.
        columns: number of columns of cells.
        size: height and width of the mosaic in px, at least 1 px per cell.
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
    """A path from one image to another in the smallest steps that pixels allow.

    Every value takes its steps at other fractions, as in an ordered dither, so that a small change of the
    fraction changes a model's scores as little as possible.

    Args:
        first: uint8 (3, H, W), the image at fraction 0.
        second: uint8 (3, H, W), the image at fraction 1.
        seed: of the offset of each value's steps.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, seed: int = 0) -> None:
        self.first = first.astype(np.float64)
        self.step = second - self.first
        # In float32 the largest is far enough below 1 that no sum is rounded up to the next value.
        self.offsets = np.random.default_rng(seed).random(first.shape, np.float32)

    def __call__(self, fraction: float) -> np.ndarray:
        """Return the image at a fraction in [0, 1] of the path: uint8 (3, H, W)."""
        image: np.ndarray = np.floor(self.first + fraction * self.step + self.offsets).astype(np.uint8)
        return image


def fitting(size: Size, most_px: float) -> Size:
    """Return ``size``, or the largest size of its aspect ratio with at most ``most_px`` pixels."""
    factor = min(1.0, (most_px / (size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def grids(count: int) -> Iterator[int]:
    """Yield the number of cells per side of ``count`` mosaics, ascending: 2, 3, 5, 8, ..."""
    side, larger = 2, 3
    for _ in range(count):
        yield side
        side, larger = larger, side + larger
