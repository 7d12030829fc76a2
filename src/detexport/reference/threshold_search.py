"""The search for an image on which a score lies near a threshold, or on which there is one detection.

Both are found on the way from an image of nothing to one of much: scores change there by as little as one
wants, so that each detection that appears crosses the threshold somewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from detexport.reference.images import Blend

SURVEY = 8
"""Steps of the first look at a way."""
STEEPEST = 100.0
"""A score that changes faster, per part of the way, does not change but jumps: other boxes were proposed."""

Probe = Callable[[np.ndarray], np.ndarray]
"""Scores of all detections in an image (R,), descending, those below the model's own threshold included."""


@dataclass(frozen=True)
class Find:
    """A place on the way, and what lies there.

    Args:
        part: of the way.
        distance: the signed distance of a score to what was sought.
    """

    part: float
    distance: float


class Trail:
    """Scores on the way from one image to another; each place is looked at once.

    Args:
        blend: the way.
        probe: gives the scores.
    """

    def __init__(self, blend: Blend, probe: Probe) -> None:
        self.blend = blend
        self.probe = probe
        self.scores: dict[float, np.ndarray] = {}
        for part in (0.0, 1.0):
            self.look(part)

    def look(self, part: float) -> None:
        """Run the model at a place; costs one run where it was not looked at before."""
        if part not in self.scores:
            self.scores[part] = self.probe(self.blend(part)).astype(np.float64)

    def count(self, part: float, level: float) -> int:
        """Number of scores that are greater than ``level`` at a place that was looked at."""
        return int(np.count_nonzero(self.scores[part] > level))

    def nearest(self, level: float, sign: int) -> Find | None:
        """Where a score lies nearest above (``sign`` 1) or not above (-1) a level, of all that was seen."""
        finds = [
            Find(part, float(distance))
            for part, scores in self.scores.items()
            for distance in scores - level
            if (distance > 0) == (sign > 0)
        ]
        return min(finds, key=lambda find: abs(find.distance), default=None)

    def approach(self, level: float, *, runs: int, hair: float) -> int:
        """Look where scores cross a level, until one lies within ``hair`` of it on both sides.

        Returns:
            Number of runs that were needed, at most ``runs``.
        """
        survey = [part for part in np.linspace(0, 1, SURVEY + 1).tolist() if part not in self.scores][:runs]
        for part in survey:
            self.look(part)
        for used in range(len(survey), runs):
            finds = [self.nearest(level, sign) for sign in (1, -1)]
            crossing = self._crossing(level)
            if crossing is None or all(find and abs(find.distance) <= hair for find in finds):
                return used
            self.look(self._between(*crossing, level, halve=bool(used % 2)))
        return runs

    def find_one(self, threshold: float, *, runs: int) -> float | None:
        """A place at which exactly one score is greater than the threshold, in at most ``runs`` runs.

        None where the way does not begin without one, or two appear at once.
        """
        empty, full = 0.0, 1.0
        if self.count(empty, threshold) or not self.count(full, threshold):
            return None
        for _ in range(runs):
            if self.count(full, threshold) == 1:
                return full
            middle = (empty + full) / 2
            self.look(middle)
            if self.count(middle, threshold):
                full = middle
            else:
                empty = middle
        return full if self.count(full, threshold) == 1 else None

    def _crossing(self, level: float) -> tuple[float, float] | None:
        """The two neighbouring places between which the fewest scores, and the nearest, cross a level."""
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
        """The score that crosses: at the place with more scores above the level, and at the other one."""
        more, less = sorted((first, second), key=lambda part: self.count(part, level), reverse=True)
        above, below = self.scores[more], self.scores[less]
        return float(above[above > level].min()), float(below[below <= level].max(initial=0.0))

    def _between(self, first: float, second: float, level: float, *, halve: bool) -> float:
        """Where a straight line between the two scores meets the level, or halfway: lines may mislead."""
        inside, outside = self._sides(first, second, level)
        share = 0.5 if halve else float(np.clip((level - outside) / (inside - outside), 0.02, 0.98))
        if self.count(first, level) > self.count(second, level):
            share = 1 - share
        between = first + share * (second - first)
        return between if first < between < second else (first + second) / 2
