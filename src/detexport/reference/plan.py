"""The kinds of inputs that a reference holds, and how much is asked of the model for them.

An artifact that is right on a handful of photographs of one size may still have frozen that size, a batch of
one or a branch that some detection takes. So a reference always holds these kinds, whatever the model:

``DATA``: images of the data set, each at several sizes.
``ODD``: odd height and width. ``WIDE``, ``TALL``: one side many times the other.
``FLAT``, ``BLACK``, ``WHITE``, ``NOISE``: of the exported size; nothing to detect, values at the edge.
``TIES``: an image that repeats itself. ``MOST``: mosaics, for as many detections as the model can give.
``ONE``: exactly one detection. ``NEAR``: a score next to the threshold that decides.
``BATCH``: images of different sizes in one call.
"""

from dataclasses import dataclass

from detexport.contract import Contract
from detexport.reference.input_coverage import score_thresholds

ODD = "odd size"
WIDE = "wide"
TALL = "tall"
FLAT = "one color"
BLACK = "black"
WHITE = "white"
NOISE = "noise"
TIES = "repeated"
MOST = "most detections"
ONE = "one detection"
NEAR = "near a threshold"
BATCH = "batch"

MADE = (ODD, WIDE, TALL, FLAT, BLACK, WHITE, NOISE)
"""Kinds that are made of the first images, or are blank."""
KINDS = (*MADE, TIES, MOST, ONE, NEAR, BATCH)
"""All kinds beside ``DATA``."""

BATCHES = 2
"""Calls with several images."""


@dataclass(frozen=True)
class Plan:
    """How much is asked of the eager model; ``conf/parity`` has the same.

    Args:
        scales: of each image of the data set, on the contract's resize rule.
        kinds: of the images beside those of the data set.
        mosaics: at most so many runs in search of the most detections.
        mosaic_area: pixels of a mosaic, at most, as a multiple of the first image's.
        one_runs: at most so many in search of exactly one detection.
        threshold_runs: at most so many in search of scores near a threshold, for each threshold.
        hair: a score that lies so near to a threshold is near enough.
        offset: scores are also sought so far above and below a threshold: beyond what rounding does, and
            so near that a slightly different threshold decides otherwise.
    """

    scales: tuple[float, ...] = (1.0, 0.75, 1.5)
    kinds: tuple[str, ...] = KINDS
    mosaics: int = 3
    mosaic_area: float = 4.0
    one_runs: int = 12
    threshold_runs: int = 40
    hair: float = 1e-5
    offset: float = 5e-4

    def most_runs(self, records: int, contract: Contract) -> int:
        """At most so many runs of the eager model, on one or several images each.

        Args:
            records: number of images of the data set.
            contract: the model's.
        """
        thresholds = len(score_thresholds(contract))
        runs = records * len(self.scales) + sum(kind in (*MADE, TIES) for kind in self.kinds)
        runs += BATCHES * (BATCH in self.kinds)
        runs += self.mosaics * (MOST in self.kinds and bool(contract.row_names))
        if thresholds and {ONE, NEAR} & {*self.kinds}:
            # The ends of the search, its steps, and the images that it finds.
            runs += 2 + self.one_runs + 1 + thresholds * (self.threshold_runs + 4)
        return runs


PROBED_BELOW = 0.01
"""How far below the lowest threshold scores are looked at."""

QUICK = Plan(kinds=(ODD, FLAT))
"""Few inputs, for the check of a fresh export: a frozen size and lost branches show on them."""


def probed_threshold(contract: Contract) -> float:
    """Return the score threshold of the model that a probe runs: somewhat below the lowest that decides.

    At most halved: a model without a threshold would have to suppress every box that it proposes.
    """
    lowest = min(score_thresholds(contract))
    return max(lowest / 2, lowest - PROBED_BELOW)
