"""Search for an image with a score near a threshold, or with exactly one detection.

Both are on the path from a blank image to a crowded one. Scores change there in small steps, so each
detection that appears crosses the threshold at some fraction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from detexport.reference.image_ops import Blend

SURVEY_STEPS = 8
"""Number of equal intervals of the path at whose ends the model runs first."""
STEEPEST = 100.0
"""Largest slope of a score over the fraction; a steeper one is a jump, since other boxes were proposed."""

Probe = Callable[[np.ndarray], np.ndarray]
"""Scores of all detections in an image (R,), descending, those below the model's own threshold included."""


@dataclass(frozen=True)
class NearScore:
    """A score near a level.

    Args:
        fraction: of the path, where the image has this score.
        distance: score - level.
    """

    fraction: float
    distance: float


class ThresholdSearch:
    """Scores on the path from one image to another; the model runs once on each image.

    Args:
        blend: the path.
        probe: returns the scores of an image.
    """

    def __init__(self, blend: Blend, probe: Probe) -> None:
        self.blend = blend
        self.probe = probe
        self.scores: dict[float, np.ndarray] = {}
        for fraction in (0.0, 1.0):
            self.run_at(fraction)

    def run_at(self, fraction: float) -> None:
        """Run the model on the image at a fraction, unless it ran there before."""
        if fraction not in self.scores:
            self.scores[fraction] = self.probe(self.blend(fraction)).astype(np.float64)

    def count(self, fraction: float, level: float) -> int:
        """Count the scores greater than ``level`` at a fraction where the model ran."""
        return int(np.count_nonzero(self.scores[fraction] > level))

    def nearest(self, level: float, sign: int) -> NearScore | None:
        """Return the nearest score above (``sign`` 1) or not above (-1) a level, of all runs."""
        candidates = [
            NearScore(fraction, float(distance))
            for fraction, scores in self.scores.items()
            for distance in scores - level
            if (distance > 0) == (sign > 0)
        ]
        return min(candidates, key=lambda score: abs(score.distance), default=None)

    def approach(self, level: float, *, runs: int, distance: float) -> int:
        """Bisect the path until scores are within ``distance`` of a level on both sides.

        Returns:
            Number of runs, at most ``runs``.
        """
        survey = [
            fraction
            for fraction in np.linspace(0, 1, SURVEY_STEPS + 1).tolist()
            if fraction not in self.scores
        ][:runs]
        for fraction in survey:
            self.run_at(fraction)
        for used in range(len(survey), runs):
            nearest = [self.nearest(level, sign) for sign in (1, -1)]
            crossing = self._crossing(level)
            if crossing is None or all(score and abs(score.distance) <= distance for score in nearest):
                return used
            self.run_at(self._between(*crossing, level, halve=bool(used % 2)))
        return runs

    def find_one(self, threshold: float, *, runs: int) -> float | None:
        """Return a fraction at which exactly one score is greater than the threshold.

        None if the path starts with detections, if two appear at once, or after ``runs`` runs.
        """
        empty, full = 0.0, 1.0
        if self.count(empty, threshold) or not self.count(full, threshold):
            return None
        for _ in range(runs):
            if self.count(full, threshold) == 1:
                return full
            middle = (empty + full) / 2
            self.run_at(middle)
            if self.count(middle, threshold):
                full = middle
            else:
                empty = middle
        return full if self.count(full, threshold) == 1 else None

    def _crossing(self, level: float) -> tuple[float, float] | None:
        """Return the neighbouring fractions between which the fewest and nearest scores cross a level."""
        crossings = [
            (first, second)
            for first, second in pairwise(sorted(self.scores))
            if self.count(first, level) != self.count(second, level)
            and first < (first + second) / 2 < second
            and self._cost(first, second, level)[1] < STEEPEST * (second - first)
        ]
        return min(crossings, key=lambda ends: self._cost(ends[0], ends[1], level)) if crossings else None

    def _cost(self, first: float, second: float, level: float) -> tuple[int, float]:
        inside, outside = self._sides(first, second, level)
        return abs(self.count(first, level) - self.count(second, level)), inside - outside

    def _sides(self, first: float, second: float, level: float) -> tuple[float, float]:
        """Return the score that crosses: at the end with more scores above the level, and at the other."""
        more, less = sorted((first, second), key=lambda fraction: self.count(fraction, level), reverse=True)
        above, below = self.scores[more], self.scores[less]
        return float(above[above > level].min()), float(below[below <= level].max(initial=0.0))

    def _between(self, first: float, second: float, level: float, *, halve: bool) -> float:
        """Return where a straight line between the two scores meets the level, or the middle."""
        inside, outside = self._sides(first, second, level)
        share = 0.5 if halve else float(np.clip((level - outside) / (inside - outside), 0.02, 0.98))
        if self.count(first, level) > self.count(second, level):
            share = 1 - share
        between = first + share * (second - first)
        return between if first < between < second else (first + second) / 2
