"""What the eager model itself leaves undetermined on one input.

A model that adds in another order, or takes equal scores in another order, is still the same model. Where its
own runs differ, nothing speaks against an artifact that differs, too; what all runs share is determined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from detexport.parity.compare.tolerance import Tolerance

MARGIN = 4.0
"""A limit is at least so many times the model's own error: a few runs show less than the worst case."""

MOST_WIDENED = 10.0
"""Numbers whose limit would have to be more than so many times the table's are undetermined."""

ANOTHER_PX = 1.0
"""Boxes of the model's own runs that are further apart, in px of the input, are two candidates."""

CHAOTIC = 0.5
"""Where the runs disagree about a greater part of the detections, no detection is determined."""


@dataclass(frozen=True)
class Noise:
    """How the eager model's own runs differ from its reference on one input.

    Args:
        limits: largest errors of what the runs share, by the names of the tolerance's limits.
        undetermined: indices of the reference's detections that another run lacks.
        scores: of the detections that one run has and another lacks, ascending.
        counts: fewest and most detections of a run, the reference among them.
        segments: panoptic segments that one run has and another lacks: whether it is a thing, its category.
    """

    limits: dict[str, float]
    undetermined: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    counts: tuple[int, int] = (0, 0)
    segments: tuple[tuple[bool, int], ...] = ()

    @property
    def chaotic(self) -> bool:
        """Whether the runs agree about too few detections for any to be determined."""
        return len(self.undetermined) > CHAOTIC * self.counts[0]

    @property
    def plausible_counts(self) -> tuple[int, int]:
        """Fewest and most detections that are no contradiction to the model's own runs."""
        fewest, most = self.counts
        return fewest // 2, 2 * most

    def open_rows(self, scores: np.ndarray, tie: float, *, of_reference: bool) -> np.ndarray:
        """Detections that the model's own runs do not determine: (R,) bool.

        Those of which a run has and another lacks one of the same score: a tie decides about all of them.

        Args:
            scores: (R,) of one side's detections.
            tie: scores that differ by no more are equal.
            of_reference: whether they are the reference's own, whose indices are known.
        """
        if self.chaotic:
            return np.ones(len(scores), bool)
        known = np.asarray(self.scores, np.float64)
        is_open = np.zeros(len(scores), bool)
        if len(known):
            places = np.searchsorted(known, scores.astype(np.float64))
            for step in (0, 1):
                near = known[np.clip(places - step, 0, len(known) - 1)]
                is_open |= np.abs(scores - near) <= tie
        if of_reference:
            is_open[list(self.undetermined)] = True
        return is_open

    def noise_dominated(self, tolerance: Tolerance) -> tuple[str, ...]:
        """Names of the limits that the model's own error exceeds so far that nothing within is a proof."""
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
"""The noise on samples that go through the model in one call, by their ids; empty where it is not known."""


def strict(tolerance: Tolerance) -> Tolerance:
    """The limits that the model's own runs are compared by; ``widen_by`` multiplies their errors again."""
    limits = {one.name: getattr(tolerance, one.name) / MARGIN for one in fields(tolerance)}
    return replace(tolerance, **{**limits, "pair_iou": tolerance.pair_iou})


def widen_by(tolerance: Tolerance, noise: Noise) -> Tolerance:
    """The tolerance with no limit below ``MARGIN`` times the model's own error on the input."""
    return tolerance.widened({name: MARGIN * error for name, error in noise.limits.items()})
