"""What the model's own runs do not determine is excused and counted; what they share is compared."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from detexport.outputs import Outputs
from detexport.parity.compare import Noise, SampleParity, compare
from detexport.parity.compare.match_detections import OWN_RUNS
from detexport.parity.compare.noise import MARGIN, strict, widen_by
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE

TABLE = TOLERANCE


def rows(scores: list[float], left: float = 0.0) -> Outputs:
    """Boxes of 20 x 20 px in a row, 40 px apart, from ``left`` on."""
    lefts = left + 40 * np.arange(len(scores), dtype=np.float32)
    boxes = np.stack([lefts, np.zeros_like(lefts), lefts + 20, np.full_like(lefts, 20)], 1)
    return {
        "pred_boxes": boxes.astype(np.float32),
        "scores": np.array(scores, np.float32),
        "pred_classes": np.zeros(len(scores), np.int64),
    }


def taken(outputs: Outputs, indices: list[int]) -> Outputs:
    return {name: value[indices] for name, value in outputs.items()}


def moved(outputs: Outputs, index: int, by: float) -> Outputs:
    boxes = outputs["pred_boxes"].copy()
    boxes[index] += np.float32(by)
    return {**outputs, "pred_boxes": boxes}


def compared(
    expected: Outputs, actual: Outputs, noise: Noise | None = None, own: bool = False
) -> SampleParity:
    return compare(
        expected, actual, tolerance=TABLE, contract=tiny_contract(), scale=1.0, noise=noise, own=own
    )


SIX = rows([0.95, 0.9, 0.9, 0.85, 0.8, 0.7])
TIE = Noise({}, undetermined=(1,), scores=(0.9,), counts=(5, 6))


def test_a_tie_decides_about_all_of_the_same_score() -> None:
    for lost in (1, 2):
        found = compared(SIX, taken(SIX, [index for index in range(6) if index != lost]), TIE)
        assert found.passed, found.reasons
        assert found.undetermined == (1, 0)
        assert (found.missing[0].decider, found.missing[0].undetermined) == (OWN_RUNS, True)
    assert not compared(SIX, taken(SIX, [0, 2, 3, 4, 5])).passed  # without the noise it is lost


def test_what_no_tie_explains_is_still_missing() -> None:
    found = compared(SIX, taken(SIX, [0, 1, 2, 4, 5]), TIE)
    assert not found.passed
    assert found.undetermined == (0, 0)
    assert "missing: class 0, score 0.8500" in found.reasons[0]


def test_another_candidate_of_an_undetermined_detection_is_no_error_of_its_box() -> None:
    open_one = Noise({}, undetermined=(4,), scores=(0.8,), counts=(5, 6))
    found = compared(SIX, moved(SIX, 4, 2.0), open_one)
    assert found.passed, found.reasons
    assert found.undetermined == (1, 1)
    assert found.errors["box_error_px"] == 0
    # That of a determined one is.
    assert "boxes: 1 of 6 pairs" in compared(SIX, moved(SIX, 3, 2.0), open_one).reasons[0]


def test_an_extra_detection_of_another_score_is_an_invented_one() -> None:
    invented = taken(rows([0.95, 0.9, 0.9, 0.85, 0.8, 0.7, 0.6]), [0, 1, 2, 3, 4, 5, 6])
    assert "extra: class 0, score 0.6000" in compared(SIX, invented, TIE).reasons[0]


def test_where_the_runs_share_next_to_nothing_all_is_undetermined_but_how_much_there_is() -> None:
    noise = Noise({}, undetermined=(0, 1, 2, 3), scores=(0.9,), counts=(5, 7))
    found = compared(SIX, rows([0.94, 0.91, 0.88, 0.83], left=15), noise)
    assert found.passed, found.reasons
    assert found.undetermined == (6, 4)
    assert found.determined == 0
    assert "1 detections, the model's own runs have 5 to 7" in compared(SIX, rows([0.9]), noise).reasons[0]


def test_limits_are_no_tighter_than_the_margin_on_the_models_own_error() -> None:
    noise = Noise({"box_px": 0.02, "box_floor_px": 0.02})
    assert widen_by(TABLE, noise).limit("box_px", 1.0) == MARGIN * 0.02
    assert compared(SIX, moved(SIX, 0, 0.07), noise).passed
    assert not compared(SIX, moved(SIX, 0, 0.09), noise).passed
    assert not compared(SIX, moved(SIX, 0, 0.07)).passed
    assert noise.noise_dominated(TABLE) == ()
    assert Noise({"score": 11 * TABLE.score / MARGIN}).noise_dominated(TABLE) == ("score",)


def test_a_mask_is_unproved_only_where_neither_limit_proves_it() -> None:
    assert Noise({"mask_px": 1000.0, "mask_area_ratio": 0.002}).noise_dominated(TABLE) == ()
    assert Noise({"mask_px": 1000.0, "mask_area_ratio": 0.2}).noise_dominated(TABLE) != ()


def test_the_models_own_runs_tell_candidates_from_movement() -> None:
    far = compared(SIX, moved(SIX, 2, 3.0), own=True)
    assert (len(far.missing), len(far.extra), far.errors["box_error_px"]) == (1, 1, 0)
    near = compared(SIX, moved(SIX, 2, 0.3), own=True)
    assert (len(near.missing), len(near.extra)) == (0, 0)
    assert near.errors["box_error_px"] == pytest.approx(0.3, abs=1e-4)
    assert strict(TABLE).score * MARGIN == TABLE.score


def test_noise_is_read_as_it_was_written() -> None:
    noise = Noise({"score": 1e-3}, (1, 4), (0.5, 0.75), (3, 6), ((True, 2), (False, 7)))
    assert Noise.from_json(json.loads(json.dumps(asdict(noise)))) == noise
