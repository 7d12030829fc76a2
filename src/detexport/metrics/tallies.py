"""Contributions of each image to a metric, from which the metric of any selection of images follows.

A metric of a data set is not the mean of the metrics of its images. The tallies therefore hold what the
metric counts on each image. Weights give the multiplicity of each image: all ones for the metric of
``detexport.metrics.evaluate``, the counts of a resample, or a single one for one image alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads precision (cocodataset.org, detection evaluation)."""

BLOCK = 2**18
"""Elements of an intermediate array: it fits the cache, and memory does not grow with the weights."""


@dataclass(frozen=True)
class Tallies:
    """Contributions of N images to a metric; the subclasses define them."""

    @property
    def images(self) -> int:
        """Number of images."""
        raise NotImplementedError

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Return the metric for each row of weights.

        Args:
            weights: (B, N), multiplicity of each image.

        Returns:
            (B,) float64 in [0, 1]; NaN where the metric is undefined, since nothing is annotated.
        """
        weights = np.atleast_2d(np.asarray(weights, np.float64))
        rows = max(BLOCK // max(self._width, 1), 1)
        blocks = [self._values(weights[i : i + rows]) for i in range(0, len(weights), rows)]
        return np.concatenate([np.zeros(0), *blocks])

    @property
    def _width(self) -> int:
        """Number of intermediate elements that one row of weights needs; here that of the images."""
        return self.images

    def _values(self, weights: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def by_class(self) -> np.ndarray:
        """Return the metric of each class alone, (K,); NaN where it is undefined."""
        raise NotImplementedError

    def annotated(self) -> np.ndarray | None:
        """Return the number of annotated objects or segments of each class, (K,); None if pixels count."""
        raise NotImplementedError

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the fields by name, to store."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Matches(Tallies):
    """Detections matched by COCO's evaluation, for average precision.

    The matching of an image does not depend on other images, so it is done once for all weights. An image of
    weight 2 counts as two copies; detections of equal score are ranked in the order of their images.

    Args:
        image: (D,) index of the image of each detection; detections are sorted by class, then by descending
            score.
        category: (D,) index of the class, ascending.
        correct: (T, D) bool, whether the detection is a true positive at each IoU threshold.
        ignored: (T, D) bool, whether the detection is ignored (it matches a crowd).
        objects: (K, N) number of annotated objects of each class on each image.
        score: (D,) score of each detection.
    """

    image: np.ndarray
    category: np.ndarray
    correct: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray
    score: np.ndarray

    @property
    def images(self) -> int:  # noqa: D102
        return int(self.objects.shape[1])

    def annotated(self) -> np.ndarray:  # noqa: D102
        counts: np.ndarray = self.objects.sum(1)
        return counts

    def by_class(self) -> np.ndarray:  # noqa: D102
        weights, objects = np.ones((1, self.images)), self.objects.sum(1)
        return np.array(
            [
                self._of_class(rows, weights, objects[index : index + 1])[0] if objects[index] else np.nan
                for index, rows in enumerate(self._rows_of_classes())
            ]
        )

    def precision_at_recalls(self, threshold: int) -> np.ndarray:
        """Return the precision at ``RECALLS``, the mean over classes with objects: COCO's PR curve.

        Args:
            threshold: index of the IoU threshold.

        Returns:
            (101,) in [0, 1], not ascending; NaN without annotated objects.
        """
        curves = [
            self._curve(rows, threshold, objects)
            for rows, objects in zip(self._rows_of_classes(), self.objects.sum(1), strict=True)
            if objects
        ]
        mean: np.ndarray = np.mean(curves, axis=0) if curves else np.full(len(RECALLS), np.nan)
        return mean

    def _rows_of_classes(self) -> list[slice]:
        starts = np.searchsorted(self.category, np.arange(len(self.objects) + 1)).tolist()
        return [slice(start, end) for start, end in pairwise(starts)]

    def _curve(self, rows: slice, threshold: int, objects: int) -> np.ndarray:
        """Return the precision at ``RECALLS`` of one class: the highest at this or a greater recall."""
        correct = self.correct[threshold, rows][~self.ignored[threshold, rows]]
        hits = correct.cumsum()
        best = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        first = np.searchsorted(hits / objects, RECALLS, side="left")
        return np.append(best, 0.0)[first]

    def extremes(self, tie: float) -> tuple[float, float]:
        """Return the lowest and the highest value over all orders of equal scores, or NaN.

        Detections of all images are ranked together, so rounding that swaps two of them changes the metric.

        Args:
            tie: scores that differ by at most this count as equal.
        """
        low, high = (self._ranked_by(sign * tie / 2) for sign in (-1, 1))
        return low, high

    def _ranked_by(self, bonus: float) -> float:
        """Return the value after adding ``bonus`` to correct scores and subtracting it from the others."""
        objects = self.objects.sum(1).astype(np.float64)
        starts = np.searchsorted(self.category, np.arange(len(self.objects) + 1))
        values = []
        for index, (start, end) in enumerate(pairwise(starts)):
            if not objects[index]:
                continue
            score = self.score[start:end].astype(np.float64)
            for correct, ignored in zip(self.correct[:, start:end], self.ignored[:, start:end], strict=True):
                counted = ~ignored
                hit = correct[counted]
                order = np.argsort(-(score[counted] + np.where(hit, bonus, -bonus)), kind="stable")
                ranks = np.flatnonzero(hit[order])[None]
                hits = np.arange(1, ranks.size + 1, dtype=np.float64)[None]
                values.append(self._at_threshold(hits, ranks + 1.0, objects[index : index + 1])[0])
        return float(np.mean(values)) if values else float("nan")

    @property
    def _width(self) -> int:
        return max(np.bincount(self.category).max(initial=0), self.images)

    def _values(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean over classes with objects, and over thresholds."""
        found = weights @ self.objects.T
        starts = np.searchsorted(self.category, np.arange(len(self.objects) + 1))
        sums, defined = np.zeros(len(weights)), np.zeros(len(weights))
        for index, (start, end) in enumerate(pairwise(starts)):
            has_objects = found[:, index] > 0
            if has_objects.any():
                of_class = self._of_class(slice(start, end), weights[has_objects], found[has_objects, index])
                sums[has_objects] += of_class
                defined += has_objects
        return _divide(sums, defined)

    def _of_class(self, rows: slice, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """Return (B,) means over thresholds for one class with ``objects`` (B,), all positive."""
        weight = weights[:, self.image[rows]]
        counted = weight.cumsum(1)
        values = []
        for correct, ignored in zip(self.correct[:, rows], self.ignored[:, rows], strict=True):
            hits, skipped = np.flatnonzero(correct & ~ignored), np.flatnonzero(ignored)
            seen = counted[:, hits]
            if len(skipped):
                uncounted = np.pad(weight[:, skipped].cumsum(1), ((0, 0), (1, 0)))
                seen -= uncounted[:, np.searchsorted(skipped, hits)]
            values.append(self._at_threshold(weight[:, hits].cumsum(1), seen, objects))
        return np.mean(values, axis=0)

    @staticmethod
    def _at_threshold(hits: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """Return the (B,) mean precision at ``RECALLS``.

        The precision at a recall is the highest of all at this or a greater recall. The maxima are at correct
        detections, so the precision is computed at those only.

        Args:
            hits: (B, P) weight of the correct detections up to each correct one.
            seen: (B, P) weight of all detections up to it.
            objects: (B,) weight of the objects.
        """
        precision = hits / (seen + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, hits / objects[:, None], side="right")
        newly = np.diff(reached, axis=1, prepend=0)
        return (best * newly).sum(1) / len(RECALLS)


@dataclass(frozen=True)
class Recalls(Matches):
    """Matched detections for average recall: the mean over thresholds of the fraction of objects detected."""

    def extremes(self, tie: float) -> tuple[float, float]:
        """Return the value twice: recall does not rank across images."""
        (value,) = self.values(np.ones((1, self.images))).tolist()
        return value, value

    def _of_class(self, rows: slice, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
        counts = self.correct[:, rows] & ~self.ignored[:, rows]
        found = weights[:, self.image[rows]] @ counts.T
        return (found / objects[:, None]).mean(1)


@dataclass(frozen=True)
class Segments(Tallies):
    """Panoptic quality, see ``detexport.metrics.panoptic_quality.Tally``; things come before stuff.

    Args:
        iou: (K, N) float64, sum over the matched pairs of each class and image.
        tp: (K, N) true positives, matched pairs.
        fp: (K, N) false positives, predicted segments without a match.
        fn: (K, N) false negatives, annotated segments without a match.
    """

    iou: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @property
    def images(self) -> int:  # noqa: D102
        return int(self.iou.shape[1])

    def annotated(self) -> np.ndarray:  # noqa: D102
        counts: np.ndarray = (self.tp + self.fn).sum(1)
        return counts

    def by_class(self) -> np.ndarray:  # noqa: D102
        return _divide(self.iou.sum(1), (self.tp + self.fp / 2 + self.fn / 2).sum(1))

    def _values(self, weights: np.ndarray) -> np.ndarray:
        iou, tp, fp, fn = (weights @ array.T for array in vars(self).values())
        return _mean_of_ratios(iou, tp + fp / 2 + fn / 2)


@dataclass(frozen=True)
class Pixels(Tallies):
    """Mean IoU of semantic segmentation; row k is the class with label k.

    Args:
        intersection: (K, N) pixels in the intersection of each class on each image.
        union: (K, N) pixels in the union.
    """

    intersection: np.ndarray
    union: np.ndarray

    @property
    def images(self) -> int:  # noqa: D102
        return int(self.intersection.shape[1])

    def annotated(self) -> None:  # noqa: D102
        return None

    def by_class(self) -> np.ndarray:  # noqa: D102
        return _divide(self.intersection.sum(1), self.union.sum(1))

    def _values(self, weights: np.ndarray) -> np.ndarray:
        return _mean_of_ratios(weights @ self.intersection.T, weights @ self.union.T)


KINDS: Mapping[str, type[Tallies]] = {
    "bbox/AP": Matches,
    "segm/AP": Matches,
    "keypoints/AP": Matches,
    "proposals/AR100": Recalls,
    "panoptic/PQ": Segments,
    "sem_seg/mIoU": Pixels,
}
"""The class of the tallies of each task metric."""


def pack_tallies(tallies: Mapping[str, Tallies]) -> dict[str, np.ndarray]:
    """Return the arrays of tallies under METRIC/FIELD, to store."""
    return {
        f"{name}/{field}": array for name, one in tallies.items() for field, array in one.to_arrays().items()
    }


def unpack_tallies(arrays: Mapping[str, np.ndarray]) -> dict[str, Tallies]:
    """Restore tallies from the arrays of ``pack_tallies``."""
    names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
    return {
        name: KINDS[name](**{field.name: arrays[f"{name}/{field.name}"] for field in fields(KINDS[name])})
        for name in names
    }


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return the quotient; NaN where the denominator is 0."""
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _mean_of_ratios(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return (B,) means of (B, K) ratios over the classes whose denominator is positive."""
    present = bottom > 0
    ratios = np.where(present, _divide(top, bottom), 0)
    return _divide(ratios.sum(1), present.sum(1).astype(np.float64))
