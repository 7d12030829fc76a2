"""Paired bootstrap over images: the confidence interval of a difference of metrics on the same images."""

from dataclasses import dataclass

import numpy as np

from detexport.metrics.tallies import Tallies

RESAMPLES = 1000
"""Efron and Tibshirani, An Introduction to the Bootstrap (1993), recommend about 1000 for percentiles."""

LEVEL = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Difference of a metric: the second side minus the first.

    Args:
        value: on all images.
        interval: the bootstrap percentile interval; the value twice if the metric is undefined on all
            resamples.
        images: (N,) on each image alone; NaN where the metric is undefined on both sides.
    """

    value: float
    interval: tuple[float, float]
    images: np.ndarray


def paired_difference(
    first: Tallies, second: Tallies, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> PairedDifference:
    """Bootstrap the difference of a metric between two sides evaluated on the same images.

    A resample draws N images with replacement, the same ones for both sides. The difficulty of an image,
    which both sides share, cancels out, and the interval reflects the differences between the sides
    (Everingham and Williams, Assessing the significance of performance differences on the PASCAL VOC
    challenges via bootstrapping, 2013; the percentile interval: Efron and Tibshirani 1993, chapter 13). It
    covers the choice of images, no other source of variance.

    AP is not a mean over images, since it ranks the detections of all images together; the other metrics sum
    before they divide. The value of one image is therefore the metric of a data set of this image alone: AP
    over its own classes and all IoU thresholds. It ignores false positives on an image without annotations,
    where AP is undefined; the value on all images and the interval count them.

    Args:
        first: tallies of the first side, in the order of the images.
        second: tallies of the second side, of the same images in the same order.
        resamples: number of resamples.
        level: fraction of the resamples within the interval.
        seed: of the resampling.

    Raises:
        ValueError: the sides differ in the number of images, or have none.
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
    """Return (B,) differences; a metric undefined on one side counts as 0 there, NaN if on both."""
    sides = np.stack([first.values(weights), second.values(weights)])
    undefined = np.isnan(sides)
    before, after = np.where(undefined, 0, sides)
    return np.where(undefined.all(0), np.nan, after - before)
