"""How sure a difference of two metrics on the same images is: a paired bootstrap over the images."""

from dataclasses import dataclass

import numpy as np

from detexport.metrics.tallies import Tallies

RESAMPLES = 1000
"""Efron and Tibshirani, An Introduction to the Bootstrap (1993), ask for about this many for percentiles."""

LEVEL = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """The difference of a metric, the second side's less the first's.

    Args:
        value: on all images.
        interval: the percentile interval of its bootstrap; the value twice where no resample defines it.
        images: (N,) on each image alone; NaN where the metric is defined on neither side.
    """

    value: float
    interval: tuple[float, float]
    images: np.ndarray


def paired_difference(
    first: Tallies, second: Tallies, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> PairedDifference:
    """Bootstrap the difference of a metric between two sides that saw the same images.

    The images are drawn with replacement, as many as there are, the same ones for both sides: what both find
    hard cancels out, and only what tells them apart spreads (Everingham and Williams, Assessing the
    significance of performance differences on the PASCAL VOC challenges via bootstrapping, 2013; the
    percentile interval: Efron and Tibshirani 1993, chapter 13). It speaks of the choice of images alone.

    AP is no mean over images, since it ranks the detections of all of them, and so are the others, which sum
    before they divide. An image's own share is therefore defined here as the metric of the data set that
    consists of this image: its AP over its own classes and all IoU thresholds. It does not tell of false
    alarms on an image where nothing is annotated, where AP is not defined; the whole and the interval do.

    Args:
        first: one side's, in the order of the images.
        second: the other's, of the same images in the same order.
        resamples: number of them.
        level: part of the resamples that lie in the interval.
        seed: of the draw.

    Raises:
        ValueError: the sides differ in their number of images, or there is none.
    """
    number = first.images
    if number != second.images or not number:
        raise ValueError(f"{number} and {second.images} images; expected the same ones, at least one")
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
    spread = _differences(first, second, drawn)
    spread = spread[~np.isnan(spread)]
    (value,) = _differences(first, second, np.ones((1, number))).tolist()
    edges = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(spread, edges).tolist() if len(spread) else (value, value)
    return PairedDifference(value, (low, high), _differences(first, second, np.eye(number)))


def _differences(first: Tallies, second: Tallies, weights: np.ndarray) -> np.ndarray:
    """(B,) differences; a side that alone does not define the metric counts as 0, NaN where neither does."""
    sides = np.stack([first.values(weights), second.values(weights)])
    undefined = np.isnan(sides)
    before, after = np.where(undefined, 0, sides)
    return np.where(undefined.all(0), np.nan, after - before)
