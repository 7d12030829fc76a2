"""The noise of the eager model on one input: differences between its own runs.

A model that adds in another order, or takes equal scores in another order, is still the same model. If its
own runs differ in a detection, an artifact may differ in it, too; what all runs share is determined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from detexport.parity.compare.tolerance import Tolerance

MARGIN = 4.0
"""A limit is at least this multiple of the model's own error: a few runs show less than the worst case."""

MOST_WIDENED = 10.0
"""Numbers whose limit would exceed the tolerance by more than this factor are undetermined."""

ANOTHER_PX = 1.0
"""Boxes of two runs that are further apart, in px of the input, are two detections."""

CHAOTIC = 0.5
"""If the runs disagree about a larger fraction of the detections, none is determined."""


@dataclass(frozen=True)
class Noise:
    """How the eager model's own runs differ from its reference on one input.

    Args:
        limits: largest errors of paired detections, by the names of the tolerance's limits.
        undetermined: indices of the reference's detections that another run lacks.
        scores: scores of the detections that one run has and another lacks, ascending.
        counts: fewest and most detections of a run, the reference included.
        segments: panoptic segments that one run has and another lacks: whether it is a thing, its category.
    """

    limits: dict[str, float]
    undetermined: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    counts: tuple[int, int] = (0, 0)
    segments: tuple[tuple[bool, int], ...] = ()

    @property
    def chaotic(self) -> bool:
        """Return whether the runs agree about too few detections for any to be determined."""
        return len(self.undetermined) > CHAOTIC * self.counts[0]

    @property
    def plausible_counts(self) -> tuple[int, int]:
        """Return the fewest and the most detections that an artifact may have on this input."""
        fewest, most = self.counts
        return fewest // 2, 2 * most

    def open_rows(self, scores: np.ndarray, tie: float, *, of_reference: bool) -> np.ndarray:
        """Return which detections are undetermined: (R,) bool.

        A detection is undetermined if one run has and another lacks a detection of its score.

        Args:
            scores: (R,) of one side's detections.
            tie: scores that differ by no more are equal.
            of_reference: whether they are the reference's, whose undetermined indices are known.
        """
        if self.chaotic:
            return np.ones(len(scores), bool)
        known = np.asarray(self.scores, np.float64)
        is_open = np.zeros(len(scores), bool)
        if len(known):
            indices = np.searchsorted(known, scores.astype(np.float64))
            for step in (0, 1):
                near = known[np.clip(indices - step, 0, len(known) - 1)]
                is_open |= np.abs(scores - near) <= tie
        if of_reference:
            is_open[list(self.undetermined)] = True
        return is_open

    def noise_dominated(self, tolerance: Tolerance) -> tuple[str, ...]:
        """Return the names of the limits that the model's own error exceeds by more than ``MOST_WIDENED``."""
        widened = widen_by(tolerance, self)
        return tuple(
            name
            for name in self.limits
            if getattr(widened, name) > MOST_WIDENED * getattr(tolerance, name) > 0
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Noise":
        """Undo ``dataclasses.asdict`` and JSON."""
        return cls(
            limits=value["limits"],
            undetermined=tuple(value["undetermined"]),
            scores=tuple(value["scores"]),
            counts=(value["counts"][0], value["counts"][1]),
            segments=tuple((isthing, category) for isthing, category in value["segments"]),
        )


NoiseOf = Callable[[Sequence[Any]], Mapping[str, Noise]]
"""Return the noise of samples of one call, by id; empty if it is not known."""


def strict(tolerance: Tolerance) -> Tolerance:
    """Return the tolerance for the model's own runs; ``widen_by`` multiplies their errors by ``MARGIN``."""
    limits = {one.name: getattr(tolerance, one.name) / MARGIN for one in fields(tolerance)}
    return replace(tolerance, **{**limits, "pair_iou": tolerance.pair_iou})


def widen_by(tolerance: Tolerance, noise: Noise) -> Tolerance:
    """Return the tolerance widened to ``MARGIN`` times the model's own error on the input."""
    return tolerance.widened({name: MARGIN * error for name, error in noise.limits.items()})
