"""Coverage of a reference's samples: kinds, sizes, numbers of detections, distances to thresholds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detexport.contract import Contract
from detexport.outputs import DESCENDING, Outputs

Size = tuple[int, int]
TIE = 1e-5
"""Scores that differ by no more are tied: rounding decides their order."""


@dataclass(frozen=True)
class Nearness:
    """Distances of the nearest scores to a score threshold.

    Args:
        threshold: of scores.
        above: distance of the nearest score above it, over all samples; None if there is none.
        below: distance of the nearest score not above it. The model does not output such a detection; its
            score comes from a copy of the model with a lower threshold, for samples made for this purpose.
    """

    threshold: float
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class InputCoverage:
    """The coverage of a reference's samples.

    Args:
        kinds: number of samples of each kind.
        sizes: number of different image sizes.
        batches: number of groups of images that are run in one call.
        max_detections: maximum number of detections or proposals of the model; negative: no limit.
        most: largest number on a sample; None if the model returns neither.
        without: number of samples without any; None if the model returns no scores.
        with_one: number of samples with exactly one; None if the model returns no scores.
        ties: number of detections or proposals whose score equals the next, within ``TIE``.
        thresholds: distances to the score thresholds of detections and of panoptic things.
    """

    kinds: dict[str, int]
    sizes: int
    batches: int
    max_detections: int
    most: int | None
    without: int | None
    with_one: int | None
    ties: int | None
    thresholds: tuple[Nearness, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "InputCoverage":
        """Undo ``dataclasses.asdict``."""
        return cls(**{**value, "thresholds": tuple(Nearness(**one) for one in value["thresholds"])})

    @property
    def gaps(self) -> tuple[str, ...]:
        """Return what no sample covers although the model could, in words."""
        if self.most is None:
            return ()
        gaps = {
            "no image without a detection": self.without == 0,
            "no image with exactly one detection": self.with_one == 0,
            f"at most {self.most} detections in an image, the model allows {self.max_detections}": (
                self.most < self.max_detections
            ),
            "no two equal scores": self.ties == 0,
        }
        unknown = [
            f"no score known {side} the threshold {one.threshold:g}"
            for one in self.thresholds
            for side, distance in (("above", one.above), ("below", one.below))
            if distance is None
        ]
        return (*(words for words, is_gap in gaps.items() if is_gap), *unknown)


def score_thresholds(contract: Contract) -> tuple[float, ...]:
    """Return the thresholds of the scores of detections and of panoptic things; none without scores."""
    if "scores" not in contract.row_names:
        return ()
    of_things = (contract.panoptic.instances_score_threshold,) if contract.panoptic else ()
    return (contract.score_threshold, *of_things)


class InputCoverageCounter:
    """Counter of the coverage of samples, which are added one by one.

    Args:
        contract: of the model.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.kinds: Counter[str] = Counter()
        self.counts: Counter[int] = Counter()
        self.sizes: set[Size] = set()
        self.batches: set[str] = set()
        self.ties = 0
        self.nearest = {threshold: Nearness(threshold) for threshold in score_thresholds(contract)}

    def add(
        self, *, kind: str, size: Size, batch: str, distances: Mapping[float, float], outputs: Outputs
    ) -> None:
        """Count one sample.

        Args:
            kind: its kind: ``DATA``, or one of ``detexport.reference.input_kinds``.
            size: height and width of its image, in px.
            batch: the group of its call; empty if it was run alone.
            distances: signed distances to the threshold of scores that may be missing in ``outputs``.
            outputs: the eager model's.
        """
        self.kinds[kind] += 1
        self.sizes.add(size)
        self.batches |= {batch} - {""}
        scores = next((outputs[name] for name in DESCENDING if name in outputs), None)
        if scores is None:
            return
        self.counts[len(scores)] += 1
        self.ties += int(np.count_nonzero(np.abs(np.diff(scores)) <= TIE))
        for threshold in self.nearest:
            self._near(threshold, scores.astype(np.float64) - threshold)
        for threshold, distance in distances.items():
            self._near(threshold, np.array([distance]))

    def _near(self, threshold: float, distances: np.ndarray) -> None:
        old = self.nearest[threshold]
        above = [*distances[distances > 0].tolist(), *_given(old.above)]
        below = [*(-distances[distances <= 0]).tolist(), *_given(old.below)]
        self.nearest[threshold] = Nearness(threshold, min(above, default=None), min(below, default=None))

    def coverage(self) -> InputCoverage:
        """Return the coverage of the added samples."""
        has_rows = bool(self.contract.row_names)
        # The number of proposals is always the same.
        has_scores = "scores" in self.contract.row_names
        return InputCoverage(
            kinds=dict(self.kinds),
            sizes=len(self.sizes),
            batches=len(self.batches),
            max_detections=self.contract.max_detections,
            most=max(self.counts, default=0) if has_rows else None,
            without=self.counts[0] if has_scores else None,
            with_one=self.counts[1] if has_scores else None,
            ties=self.ties if has_rows else None,
            thresholds=tuple(self.nearest.values()),
        )


def _given(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)
