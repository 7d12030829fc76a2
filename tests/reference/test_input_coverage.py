"""What the samples of a reference cover: counted one by one, and the gaps in words."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from detexport.contract import Contract
from detexport.reference.input_coverage import (
    TIE,
    InputCoverage,
    InputCoverageCounter,
    Nearness,
    score_thresholds,
)
from detexport.reference.store import DATA
from tiny_artifacts import KINDS, SCORE_THRESHOLD, tiny_contract

SIZE = (30, 50)


def counted(*scores: list[float], contract: Contract | None = None, **given: Any) -> InputCoverage:
    """Return the coverage of one sample for each list of scores."""
    counter = InputCoverageCounter(contract or tiny_contract())
    for one in scores:
        fields = {"kind": DATA, "size": SIZE, "batch": "", "distances": {}, **given}
        counter.add(**fields, outputs={"scores": np.array(one, np.float32)})
    return counter.coverage()


def test_kinds_sizes_and_batches_are_counted() -> None:
    counter = InputCoverageCounter(tiny_contract())
    for kind, size, batch in [
        (DATA, SIZE, ""),
        (DATA, (50, 30), "1"),
        ("batch", SIZE, "1"),
        ("b", SIZE, "2"),
    ]:
        counter.add(kind=kind, size=size, batch=batch, distances={}, outputs={"scores": np.zeros(0)})
    coverage = counter.coverage()
    assert coverage.kinds == {DATA: 2, "batch": 1, "b": 1}
    assert (coverage.sizes, coverage.batches) == (2, 2)


def test_samples_without_with_one_and_with_most_detections() -> None:
    coverage = counted([], [0.9], [0.9, 0.8, 0.7], [0.6])
    assert (coverage.without, coverage.with_one, coverage.most) == (1, 2, 3)
    assert coverage.max_detections == 10


def test_a_tie_is_two_scores_that_rounding_may_swap() -> None:
    assert counted([0.9, 0.9, 0.9], [0.5, 0.5 - TIE / 2]).ties == 3
    assert counted([0.9, 0.9 - 3 * TIE], [0.9]).ties == 0


def test_the_nearest_scores_on_both_sides_of_a_threshold() -> None:
    coverage = counted([0.5, 0.375], [0.3125])
    assert coverage.thresholds == (Nearness(SCORE_THRESHOLD, 0.0625, None),)
    coverage = counted([0.5], distances={SCORE_THRESHOLD: -0.125})
    assert coverage.thresholds == (Nearness(SCORE_THRESHOLD, 0.25, 0.125),)
    assert counted([0.5], distances={SCORE_THRESHOLD: 0.03125}).thresholds[0].above == 0.03125


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    """A model keeps the scores that are greater."""
    (near,) = counted([SCORE_THRESHOLD]).thresholds
    assert (near.above, near.below) == (None, 0.0)


def test_a_panoptic_model_has_two_thresholds() -> None:
    panoptic = tiny_contract(**KINDS["panoptic"])
    assert score_thresholds(panoptic) == (SCORE_THRESHOLD, 0.4)
    first, second = counted([0.5], contract=panoptic).thresholds
    assert (first.above, second.threshold) == (0.25, 0.4)
    assert second.above == pytest.approx(0.1)


def test_pixels_have_no_detections_to_count() -> None:
    counter = InputCoverageCounter(tiny_contract(**KINDS["semantic"]))
    counter.add(kind=DATA, size=SIZE, batch="", distances={}, outputs={"sem_seg": np.zeros((3, 4, 4))})
    coverage = counter.coverage()
    assert (coverage.most, coverage.without, coverage.with_one, coverage.ties) == (None,) * 4
    assert coverage.thresholds == ()
    assert coverage.gaps == ()


def test_proposals_are_counted_but_none_may_be_missing() -> None:
    """Their number is that of the configuration, whatever the image, and no score decides about them."""
    counter = InputCoverageCounter(tiny_contract(**KINDS["proposals"]))
    logits = np.array([2.0, 1.0, 1.0], np.float32)
    counter.add(kind=DATA, size=SIZE, batch="", distances={}, outputs={"objectness_logits": logits})
    coverage = counter.coverage()
    assert (coverage.most, coverage.ties) == (3, 1)
    assert (coverage.without, coverage.with_one, coverage.thresholds) == (None, None, ())


def test_a_reference_without_a_sample_covers_nothing() -> None:
    coverage = counted()
    assert (coverage.kinds, coverage.sizes, coverage.most) == ({}, 0, 0)
    assert len(coverage.gaps) == 6


def test_the_coverage_survives_json() -> None:
    coverage = counted([0.5, 0.5], [], distances={SCORE_THRESHOLD: -0.1})
    assert InputCoverage.from_json(json.loads(json.dumps(asdict(coverage)))) == coverage


def test_what_is_covered_is_no_gap() -> None:
    coverage = counted([0.9] * 10, [], [0.3], distances={SCORE_THRESHOLD: -0.001})
    assert coverage.gaps == ()


def test_gaps_are_told_in_words() -> None:
    coverage = InputCoverage({DATA: 3}, 1, 0, 100, 20, 0, 0, 0, (Nearness(0.05, 0.1, None),))
    assert coverage.gaps == (
        "no image without a detection",
        "no image with exactly one detection",
        "at most 20 detections in an image, the model allows 100",
        "no two equal scores",
        "no score known below the threshold 0.05",
    )
