"""The search on a path whose scores are known: a ramp, a jump, several detections."""

from collections.abc import Callable

import numpy as np
import pytest

from detexport.reference.image_ops import Blend, plain
from detexport.reference.threshold_search import ThresholdSearch

THRESHOLD = 0.3
SIZE = (40, 50)


def search(scores: Callable[[float], list[float]]) -> tuple[ThresholdSearch, list[float]]:
    """From black to white, the scores follow from the brightness in [0, 1]; and all that was looked at."""
    seen: list[float] = []

    def probe(image: np.ndarray) -> np.ndarray:
        brightness = float(image.mean()) / 255
        seen.append(brightness)
        return np.array(sorted(scores(brightness), reverse=True), np.float32)

    return ThresholdSearch(Blend(plain(SIZE, (0.0,)), plain(SIZE, (255.0,))), probe), seen


def test_a_score_that_changes_evenly_is_brought_to_a_hair_on_both_sides() -> None:
    path, seen = search(lambda brightness: [brightness**2])
    distance = 2e-5  # a value's step of a 6000th of the brightness moves this score by 2e-6
    used = path.approach(THRESHOLD, runs=40, distance=distance)
    above, below = path.nearest(THRESHOLD, 1), path.nearest(THRESHOLD, -1)
    assert above is not None
    assert below is not None
    assert 0 < above.distance <= distance
    assert -distance <= below.distance <= 0
    assert used < 25
    assert len(seen) == used + 2
    image = path.blend(above.fraction)
    assert (image.mean() / 255) ** 2 - THRESHOLD == pytest.approx(above.distance, abs=1e-7)


def test_a_jump_is_left_for_a_crossing_that_can_be_approached() -> None:
    def scores(brightness: float) -> list[float]:
        jumping = 0.2 if brightness < 0.31 else 0.36
        return [jumping, max(0.0, 0.9 - brightness)]

    path, _ = search(scores)
    path.approach(THRESHOLD, runs=60, distance=2e-4)
    for sign in (1, -1):
        score = path.nearest(THRESHOLD, sign)
        assert score is not None
        assert abs(score.distance) <= 2e-4


def test_no_more_runs_are_made_than_allowed() -> None:
    path, seen = search(lambda brightness: [brightness])
    assert path.approach(THRESHOLD, runs=3, distance=0.0) == 3
    assert len(seen) == 2 + 3


def test_where_nothing_crosses_the_search_ends() -> None:
    path, seen = search(lambda brightness: [0.9])
    assert path.approach(THRESHOLD, runs=30, distance=1e-6) < 30
    assert len(seen) < 15
    assert path.nearest(THRESHOLD, -1) is None
    assert path.find_one(THRESHOLD, runs=5) is None  # the path does not begin without a detection


def test_one_detection_is_found_between_none_and_many() -> None:
    path, _ = search(lambda brightness: [brightness, brightness * 0.98, brightness * 0.5])
    fraction = path.find_one(THRESHOLD, runs=12)
    assert fraction is not None
    assert path.count(fraction, THRESHOLD) == 1
    twins, _ = search(lambda brightness: [brightness, brightness])
    assert twins.find_one(THRESHOLD, runs=12) is None
