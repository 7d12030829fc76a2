from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detexport.parity.compare import SampleParity
from detexport.parity.compare.match_detections import OneSided
from detexport.parity.worst_images import WorstImages, fractions_of_limits, severity
from detexport.reference.store import NO_IMAGE, SampleMeta
from tolerances import TOLERANCE

TABLE = replace(TOLERANCE, box_px=0.01, box_floor_px=0.01, score=1e-3, mask_px=9, mask_area_ratio=0.005)
LOST = OneSided(0, 0, 0.9, (0.0, 0.0, 9.0, 9.0), "the score threshold", 0.4, excused=False)


def meta(id: str, image_id: int = NO_IMAGE, scale: int = 1) -> SampleMeta:
    return SampleMeta(id, image_id, "", (10, 10), (10 * scale, 10 * scale), 1.0)


def sample(score_error: float = 0.0, **fields: Any) -> SampleParity:
    return replace(SampleParity(3, 3, errors={"score_error": score_error}), **fields)


def kept(count: int, *added: tuple[SampleMeta, SampleParity]) -> WorstImages:
    worst = WorstImages(count, TABLE)
    for one, measured in added:
        worst.add(one, measured, {"scores": np.zeros(1)})
    return worst


def test_the_largest_errors_are_kept_whatever_the_order() -> None:
    errors = {"a": 1e-5, "b": 9e-4, "c": 0.0, "d": 2e-4}
    for names in ("abcd", "dcba", "bdac"):
        worst = kept(2, *((meta(name), sample(errors[name])) for name in names))
        assert worst.ids == ("b", "d")
        assert worst.outputs.keys() == {"b", "d"}


def test_one_input_of_each_image_is_kept_the_worst_one() -> None:
    inputs = ((meta("1-1x", 1), sample(5e-4)), (meta("1-2x", 1), sample(9e-4)), (meta("2", 2), sample(1e-4)))
    assert kept(2, *inputs).ids == ("1-2x", "2")
    assert kept(2, *reversed(inputs)).ids == ("1-2x", "2")


def test_a_lost_detection_counts_more_than_a_number_and_a_crash_most() -> None:
    broken = SampleParity(3, 0, broken=("RuntimeError: no kernel",))
    worst = WorstImages(3, TABLE)
    worst.add(meta("number"), sample(0.5), {})
    worst.add(meta("lost"), sample(0.0, missing=(LOST,)), {})
    worst.add(meta("excused"), sample(0.0, missing=(replace(LOST, excused=True),)), {})
    worst.add(meta("broken"), broken, None)
    assert worst.ids == ("broken", "lost", "number")
    assert "broken" not in worst.outputs


def test_of_equal_errors_the_fuller_image_is_shown() -> None:
    assert kept(1, (meta("a"), sample()), (meta("b"), sample(expected=20)), (meta("c"), sample())).ids == (
        "b",
    )


def test_nothing_is_kept_if_nothing_is_asked_for() -> None:
    assert kept(0, (meta("a"), sample(1.0))).ids == ()


@pytest.mark.parametrize(
    ("errors", "scale", "fractions"),
    [
        ({"box_error_px": 0.01, "score_error": 5e-4}, 1.0, {"box_error_px": 1.0, "score_error": 0.5}),
        ({"box_error_px": 0.01}, 2.0, {"box_error_px": 0.5}),
        ({"mask_error_px": 90, "mask_error_ratio": 0.0025}, 1.0, {"mask_error_px": 0.5}),
        ({"mask_error_px": 3, "mask_error_ratio": 0.5}, 1.0, {"mask_error_px": pytest.approx(1 / 3)}),
        ({"mask_iou_error": 0.4}, 1.0, {}),
    ],
)
def test_errors_are_related_to_their_limits(
    errors: dict[str, float], scale: float, fractions: dict[str, float]
) -> None:
    assert fractions_of_limits(errors, TABLE, scale) == fractions


def test_a_limit_of_zero_is_exceeded_by_any_error() -> None:
    strict = replace(TABLE, score=0.0)
    assert fractions_of_limits({"score_error": 0.0}, strict, 1.0) == {"score_error": 0.0}
    assert severity(sample(1e-9), strict, 1.0).of_limit == float("inf")
