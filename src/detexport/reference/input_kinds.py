"""The kinds of inputs of a reference, and the numbers of runs of the model for them.

An artifact that is correct on photographs of one size may still have fixed that size, batch size 1, or a
branch that depends on the detections. So a reference has the kinds of ``KINDS``, whatever the model.
"""

from dataclasses import dataclass

from detexport.contract import Contract
from detexport.reference.input_coverage import score_thresholds
from detexport.reference.store import DATA

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
"""Kinds that are made of the first images, or blank."""
KINDS = {
    DATA: "images of the data set, each at several sizes",
    ODD: "height and width are odd",
    WIDE: "one side many times the other",
    TALL: "one side many times the other",
    FLAT: "nothing to detect",
    BLACK: "all values 0",
    WHITE: "all values 255",
    NOISE: "random values",
    TIES: "an image tiled with copies of itself: equal scores",
    MOST: "mosaics with as many detections as possible",
    ONE: "exactly one",
    NEAR: "a score next to the score threshold",
    BATCH: "images of different sizes in one call",
}
"""All kinds, with the content of their images."""
EDGE_CASES = tuple(kind for kind in KINDS if kind != DATA)

BATCHES = 2
"""Number of calls with several images."""


@dataclass(frozen=True)
class Plan:
    """Kinds of inputs and limits of the search; ``conf/parity/default.yaml`` has the values.

    Args:
        scales: scales of each image of the data set, on the contract's resize rule.
        mosaics: most runs for the most detections.
        mosaic_area: largest area of a mosaic, as a multiple of the first image's.
        one_runs: most runs for exactly one detection.
        threshold_runs: most runs for scores near a threshold, for each threshold.
        threshold_distance: a score within this distance of a threshold ends the search.
        offset: scores at this distance above and below a threshold are searched, too: further than rounding,
            and near enough to show a slightly different threshold.
        kinds: kinds of the images that are not of the data set.
    """

    scales: tuple[float, ...]
    mosaics: int
    mosaic_area: float
    one_runs: int
    threshold_runs: int
    threshold_distance: float
    offset: float
    kinds: tuple[str, ...] = EDGE_CASES

    def most_runs(self, records: int, contract: Contract) -> int:
        """Return the largest number of runs of the eager model, a batch being one run.

        Args:
            records: number of images of the data set.
            contract: the model's.
        """
        thresholds = len(score_thresholds(contract))
        runs = records * len(self.scales) + sum(kind in (*MADE, TIES) for kind in self.kinds)
        runs += BATCHES * (BATCH in self.kinds)
        runs += self.mosaics * (MOST in self.kinds and bool(contract.row_names))
        if thresholds and {ONE, NEAR} & {*self.kinds}:
            # The ends of the path, the steps of the search, and the images that it finds.
            runs += 2 + self.one_runs + 1 + thresholds * (self.threshold_runs + 4)
        return runs


PROBED_BELOW = 0.01
"""Distance of a probe's threshold below the lowest score threshold."""

QUICK = (ODD, FLAT)
"""Few kinds, for the check of an export: they show a fixed size and lost branches."""


def probed_threshold(contract: Contract) -> float:
    """Return the score threshold of a probe: ``PROBED_BELOW`` below the lowest one, at least half of it.

    Without a threshold NMS would run on every box.
    """
    lowest = min(score_thresholds(contract))
    return max(lowest / 2, lowest - PROBED_BELOW)
