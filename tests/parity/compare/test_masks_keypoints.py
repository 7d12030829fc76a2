import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval
from two_sides import SIZE, detections, take
from two_sides import measure as compared

from detexport.parity.compare import SampleParity, compare
from tiny_artifacts import KINDS, tiny_contract
from tolerances import TOLERANCE


def outputs(count: int = 4, keypoints: int = 25) -> dict[str, np.ndarray]:
    """Detections apart from each other, each with keypoints in its box."""
    x0 = np.arange(count, dtype=np.float32) * 18
    boxes = np.stack([x0, np.full(count, 5), x0 + 16, np.full(count, 45)], 1).astype(np.float32)
    places = np.random.default_rng(0).uniform(0, 16, (count, keypoints, 3))
    places[..., 0] += x0[:, None]
    places[..., 2] = 0.3
    return {
        "pred_boxes": boxes,
        "scores": np.linspace(0.9, 0.5, count, dtype=np.float32),
        "pred_classes": np.zeros(count, np.int64),
        "pred_keypoints": places.astype(np.float32),
    }


def measure(
    expected: dict[str, np.ndarray], actual: dict[str, np.ndarray], scale: float = 1.0
) -> SampleParity:
    contract = tiny_contract(**KINDS["keypoints"])
    return compare(expected, actual, tolerance=TOLERANCE, contract=contract, scale=scale)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_equal_keypoints_pass(count: int) -> None:
    result = measure(outputs(count), outputs(count))
    assert result.passed
    assert (result.keypoints, result.keypoint_flips) == (25 * count, 0)
    assert set(result.errors.values()) == {0}


@pytest.mark.parametrize(("shift", "scale", "passed"), [(0.015, 1, True), (0.03, 1, False), (0.03, 2, True)])
def test_all_places_are_held_to_px_of_the_input(shift: float, scale: float, passed: bool) -> None:
    actual = outputs()
    actual["pred_keypoints"][..., 0] += np.float32(shift)
    result = measure(outputs(), actual, scale)
    assert result.passed is passed
    if passed:
        assert result.errors["keypoint_error_px"] == pytest.approx(shift, rel=1e-3)
    else:
        assert "keypoints: 100 of 100 keypoints beyond the tolerance, worst 0.03 px" in result.numerics[0]
        assert (result.keypoint_flips, result.matching) == (0, ())
        assert result.errors["keypoint_error_px"] == pytest.approx(shift, rel=1e-3)


@pytest.mark.parametrize(("shift", "matching"), [(0.39, 0), (0.41, 1)])
def test_a_place_in_another_cell_is_a_flip(shift: float, matching: int) -> None:
    actual = outputs()
    actual["pred_keypoints"][0, 0, 1] += np.float32(shift)
    result = measure(outputs(), actual)
    assert result.keypoint_flips == matching
    assert result.passed is bool(matching)  # one cell may flip; what did not flip has to be near


@pytest.mark.parametrize(("matching", "passed"), [(1, True), (2, True), (3, False)])
def test_few_places_may_be_elsewhere(matching: int, passed: bool) -> None:
    actual = outputs()
    actual["pred_keypoints"][0, :matching, 1] += 9
    result = measure(outputs(), actual)
    assert result.keypoint_flips == matching
    assert result.passed is passed
    assert passed or "keypoints: 3 of 100 keypoints beyond the tolerance, worst 9 px" in result.reasons[0]


def test_one_place_may_be_elsewhere_where_there_are_few() -> None:
    actual = outputs(1, 5)
    actual["pred_keypoints"][0, 0, 1] += 9
    assert measure(outputs(1, 5), actual).passed
    actual["pred_keypoints"][0, 1, 1] += 9
    assert not measure(outputs(1, 5), actual).passed


@pytest.mark.parametrize("score", [0.3, 3e-5, 4e6])
@pytest.mark.parametrize(("factor", "passed"), [(1.001, True), (1.003, False)])
def test_a_keypoints_score_is_held_to_a_part_of_it(score: float, factor: float, passed: bool) -> None:
    """A score is one over a sum of exponentials, of any size."""
    expected, actual = outputs(), outputs()
    expected["pred_keypoints"][..., 2] = score
    actual["pred_keypoints"][..., 2] = score
    actual["pred_keypoints"][2, 3, 2] *= factor
    result = measure(expected, actual)
    assert result.passed is passed
    assert result.errors["keypoint_score_error"] == pytest.approx(factor - 1, rel=1e-2)


def test_a_place_elsewhere_with_another_score_is_no_flip() -> None:
    actual = outputs()
    actual["pred_keypoints"][0, 0] += [5, 5, 0.1]
    assert "keypoint scores: 1 of 100" in measure(outputs(), actual).reasons[0]


def test_scores_that_vanish_are_equal() -> None:
    expected = outputs()
    expected["pred_keypoints"][..., 2] = 0
    assert measure(expected, expected).passed


def test_keypoints_of_two_detections_exchanged() -> None:
    actual = outputs()
    actual["pred_keypoints"] = actual["pred_keypoints"][[1, 0, 2, 3]]
    assert not measure(outputs(), actual).passed


def test_another_number_of_keypoints_cannot_be_compared() -> None:
    assert "pred_keypoints: runtime (24, 3)" in measure(outputs(), outputs(4, 24)).reasons[0]


def test_a_keypoint_that_is_not_finite_fails() -> None:
    actual = outputs()
    actual["pred_keypoints"][1, 2, 0] = np.nan
    assert measure(outputs(), actual).reasons == ("runtime, pred_keypoints: 1 values are NaN or infinite",)


SIGMAS = tuple(np.linspace(0.02, 0.2, 25).tolist())


def oks(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> float | None:
    contract = tiny_contract(**{**KINDS["keypoints"], "keypoint_sigmas": SIGMAS})
    found = compare(expected, actual, tolerance=TOLERANCE, contract=contract, scale=1.0)
    return found.errors.get("keypoint_oks_error")


def test_the_similarity_of_keypoints_is_cocos() -> None:
    """Compared with pycocotools, whose object is as large as its box."""
    expected, actual = outputs(1), outputs(1)
    actual["pred_keypoints"][..., :2] += np.random.default_rng(1).normal(0, 2, (1, 25, 2)).astype(np.float32)
    box = [0, 5, 16, 40]
    one = {"image_id": 1, "category_id": 1, "bbox": box, "area": 16 * 40, "iscrowd": 0, "num_keypoints": 25}
    sides = [
        {**one, "id": 1, "score": 0.9, "keypoints": np.where([1, 1, 0], side["pred_keypoints"][0], 2).ravel()}
        for side in (expected, actual)
    ]
    evaluation = COCOeval(iouType="keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
    evaluation.params.catIds = [1]
    evaluation._gts, evaluation._dts = {(1, 1): sides[:1]}, {(1, 1): sides[1:]}
    similarity = evaluation.computeOks(1, 1)[0, 0]
    assert 0.2 < similarity < 0.9
    assert oks(expected, actual) == pytest.approx(1 - similarity, rel=1e-6)


def test_the_similarity_of_keypoints_is_of_pairs_alone() -> None:
    assert oks(outputs(), outputs()) == oks(outputs(0), outputs(0)) == 0
    assert "keypoint_oks_error" not in measure(outputs(), outputs()).errors  # nobody said the sigmas
    flat = outputs(1)
    flat["pred_boxes"][:, 2] = flat["pred_boxes"][:, 0]
    moved = {**flat, "pred_keypoints": flat["pred_keypoints"] + np.float32([1, 0, 0])}
    assert (oks(flat, flat), oks(flat, moved)) == (0, 1)


@pytest.mark.parametrize(("pixels", "passed"), [(9, True), (10, False)])
def test_a_mask_may_differ_in_nine_pixels(pixels: int, passed: bool) -> None:
    actual = detections()
    actual["pred_masks"][2].reshape(-1)[:pixels] ^= True
    result = compared(detections(), actual)
    assert result.passed is passed
    assert result.errors["mask_error_px"] == pixels


def test_a_large_mask_may_differ_in_a_part_of_its_area() -> None:
    expected = {name: value[:1] for name, value in detections().items()}
    expected["pred_masks"] = np.ones((1, 60, 80), bool)  # 4800 px, of which 0.5 % is 24
    actual = {**expected, "pred_masks": expected["pred_masks"].copy()}
    actual["pred_masks"][0, 0, :24] = False
    assert compared(expected, actual).passed
    actual["pred_masks"][0, 0, :25] = False
    assert not compared(expected, actual).passed


def test_an_empty_mask_hides_no_error() -> None:
    expected = take(detections(), 0)
    expected["pred_masks"] = np.zeros((1, *SIZE), bool)
    result = compared(expected, take(detections(), 0))
    assert not result.passed
    assert result.errors["mask_error_ratio"] == result.errors["mask_error_px"] == 16 * 40


def test_the_overlap_of_masks_is_told() -> None:
    expected, actual = take(detections(), 0), take(detections(), 0)
    for outputs, rows in ((expected, slice(0, 30)), (actual, slice(10, 40))):
        outputs["pred_masks"] = np.zeros((1, *SIZE), bool)
        outputs["pred_masks"][0, rows] = True
    assert compared(expected, actual).errors["mask_iou_error"] == pytest.approx(1 - 20 / 40)
    empty = {**expected, "pred_masks": np.zeros((1, *SIZE), bool)}
    assert compared(empty, empty).errors["mask_iou_error"] == 0
    assert compared(expected, empty).errors["mask_iou_error"] == 1


def test_masks_of_two_detections_exchanged() -> None:
    actual = detections()
    actual["pred_masks"] = actual["pred_masks"][[1, 0, 2, 3]]
    assert not compared(detections(), actual).passed
