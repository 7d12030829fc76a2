"""Colours that differ well."""

import colorsys

import numpy as np

COLOURS = 80


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Return 80 colours: hues a golden angle apart, in alternating saturation and brightness.

    Args:
        rgb: return RGB instead of BGR.
        maximum: value of a full channel, 255 or 1.

    Returns:
        (80, 3) float32.
    """
    _check(maximum)
    shades = ((0.85, 0.95), (0.6, 0.75), (0.95, 0.7), (0.45, 1.0))
    colours = [
        colorsys.hsv_to_rgb(index * 0.618034 % 1, *shades[index % len(shades)]) for index in range(COLOURS)
    ]
    table = np.array(colours, np.float32) * maximum
    return table if rgb else table[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Return a random one of the colours (3,): see ``colormap``."""
    return colormap(rgb, maximum)[np.random.randint(COLOURS)]


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:  # noqa: N803 - detectron2's
    """Return ``N`` different colours of ``colormap``.

    Raises:
        ValueError: there are fewer colours.
    """
    if N > COLOURS:
        raise ValueError(f"there are {COLOURS} different colours, got N={N}; use random_color instead")
    return list(colormap(rgb, maximum)[np.random.permutation(COLOURS)[:N]])


def _check(maximum: int) -> None:
    if maximum not in (1, 255):
        raise ValueError(f"the value of a full channel is 1 or 255, got {maximum}")
