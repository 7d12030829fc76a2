import numpy as np
import pytest
import torch
from two_sides import THRESHOLD, detections, measure, take

from detexport.contract import DETECTION_OUTPUTS
from detexport.layers import pairwise_iou_rotated
from detexport.parity.compare.match_detections import Rows, box_iou, pair, rotated_iou
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE


def test_a_shifted_class_is_a_lost_and_an_invented_object() -> None:
    actual = detections()
    actual["pred_classes"] = (actual["pred_classes"] + 1) % 2
    result = measure(detections(), actual)
    assert not result.passed
    assert (result.paired, len(result.missing), len(result.extra)) == (0, 4, 4)


@pytest.mark.parametrize(("factor", "passed"), [(1.00001, True), (1.001, False), (1.05, False)])
def test_scaled_boxes(factor: float, passed: bool) -> None:
    actual = detections()
    actual["pred_boxes"] *= np.float32(factor)
    result = measure(detections(), actual)
    assert result.passed is passed
    assert passed or result.reasons[0].startswith("boxes: ")


def test_boxes_scaled_so_much_that_no_pair_is_left() -> None:
    actual = detections()
    actual["pred_boxes"] *= np.float32(1.5)
    result = measure(detections(), actual)
    assert (result.paired, len(result.missing), len(result.extra)) == (0, 4, 4)
    assert not result.passed


def test_the_box_limit_grows_with_the_scale_and_has_a_floor() -> None:
    actual = detections()
    actual["pred_boxes"][0, 0] += 0.03
    assert not measure(detections(), actual).passed
    assert measure(detections(), actual, scale=4.0).passed
    assert TOLERANCE.limit("box_px", 0.1) == 0.01


@pytest.mark.parametrize(("error", "passed"), [(1e-4, True), (4e-4, False)])
def test_scores(error: float, passed: bool) -> None:
    actual = detections()
    actual["scores"][1] -= np.float32(error)
    result = measure(detections(), actual)
    assert result.passed is passed
    assert result.errors["score_error"] == pytest.approx(error, rel=1e-2)


def test_a_lost_object_fails_and_is_named() -> None:
    result = measure(detections(), take(detections(), 0, 2, 3))
    assert [one.index for one in result.missing] == [1]
    assert not result.missing[0].excused
    assert "missing: class 1, score 0.8000" in result.reasons[0]


def test_a_doubled_detection_fails() -> None:
    result = measure(detections(), take(detections(), 0, 0, 1, 2, 3))
    assert not result.passed
    assert (result.paired, len(result.extra)) == (4, 1)


@pytest.mark.parametrize("lost", ["expected", "actual"])
@pytest.mark.parametrize(("distance", "passed"), [(1e-4, True), (5e-4, False)])
def test_a_flip_at_the_score_threshold(lost: str, distance: float, passed: bool) -> None:
    full, short = detections(), take(detections(), 0, 1, 2)
    full["scores"][3] = THRESHOLD + distance
    sides = (short, full) if lost == "expected" else (full, short)
    assert measure(*sides).passed is passed


def test_far_below_the_threshold_is_not_at_its_edge() -> None:
    actual = detections()
    actual["scores"][3] = 0.1
    assert not measure(take(detections(), 0, 1, 2), actual).passed


@pytest.mark.parametrize(("distance", "passed"), [(1e-4, True), (5e-4, False)])
def test_a_flip_at_the_cut_to_the_most_detections(distance: float, passed: bool) -> None:
    full = detections(5)
    full["scores"][3:] = [0.6, 0.6 - distance]
    expected, actual = take(full, 0, 1, 2, 3), take(full, 0, 1, 2, 4)
    result = measure(expected, actual, contract=tiny_contract(max_detections=4))
    assert result.passed is passed
    assert not measure(expected, actual, contract=tiny_contract(max_detections=5)).passed, "nothing was cut"


@pytest.mark.parametrize(("shift_px", "passed"), [(0.0, True), (0.5, False)])
def test_a_flip_at_the_overlap_that_drops_a_box(shift_px: float, passed: bool) -> None:
    """Two boxes of 60 x 40 px, one moved by a third of the width: their IoU is a half."""
    expected = take(detections(2), 0, 0)
    expected["scores"] = np.array([0.9, 0.8], np.float32)
    expected["pred_boxes"] = np.array([[0, 5, 60, 45], [20 + shift_px, 5, 80 + shift_px, 45]], np.float32)
    result = measure(expected, take(expected, 0), contract=tiny_contract(nms_threshold=0.5))
    assert result.missing[0].decider == "the IoU threshold"
    assert result.missing[0].distance == pytest.approx(0.0 if passed else 0.0094, abs=1e-3)
    assert result.passed is passed


@pytest.mark.parametrize(("shift_px", "passed"), [(17.655, True), (17.64, False)])
@pytest.mark.parametrize("lost", ["expected", "actual"])
def test_a_proposal_is_dropped_by_none_of_another_level(lost: str, shift_px: float, passed: bool) -> None:
    """Two boxes of 100 px, kept by one side: of one level their IoU is at most 0.7, here +- 0.0001."""
    boxes = np.array([[0, 0, 100, 100], [shift_px, 0, 100 + shift_px, 100]], np.float32)
    both = {"proposal_boxes": boxes, "objectness_logits": np.array([2.0, 1.0], np.float32)}
    sides = {"expected": both, "actual": both, lost: take(both, 0)}
    result = measure(**sides, contract=tiny_contract(nms_threshold=0.7, max_detections=10))
    assert result.passed == passed
    (one,) = (*result.missing, *result.extra)
    assert one.decider == "the IoU threshold" or not passed


def test_of_equal_detections_another_one_may_be_kept() -> None:
    """Three copies of an object, of which the model keeps two."""
    copies = take(detections(1), 0, 0, 0)
    copies["pred_boxes"] = copies["pred_boxes"] + np.float32([[0], [100], [200]]) * np.float32([1, 0, 1, 0])
    result = measure(take(copies, 0, 1), take(copies, 0, 2))
    assert result.passed
    assert {one.decider for one in (*result.missing, *result.extra)} == {"an equal detection"}
    assert not measure(take(copies, 0, 1), take(copies, 0)).passed, "none was kept in its place"
    assert not measure(take(copies, 1), take(copies, 2)).passed, "the model has no other that is equal"
    copies["scores"] = np.array([0.9, 0.9, 0.89], np.float32)
    assert not measure(take(copies, 0, 1), take(copies, 0, 2)).passed, "the scores differ"


def test_a_sliver_may_be_empty_on_one_side() -> None:
    expected = detections()
    expected["pred_boxes"][3] = [40, 10, 40.005, 30]
    assert measure(expected, take(expected, 0, 1, 2)).passed
    expected["pred_boxes"][3] = [40, 10, 40.5, 30]
    assert not measure(expected, take(expected, 0, 1, 2)).passed


def test_ties_may_swap_and_nothing_else() -> None:
    expected = detections()
    expected["scores"][1:3] = [0.7001, 0.7]
    swapped = take(expected, 0, 2, 1, 3)
    swapped["scores"] = expected["scores"]
    assert measure(expected, swapped).passed
    expected["scores"][1:3] = [0.7003, 0.7]
    swapped["scores"] = np.array([0.9, 0.70015, 0.70015, 0.6], np.float32)
    result = measure(expected, swapped)
    assert [reason.split(":")[0] for reason in result.reasons] == ["order"]


def test_more_detections_than_declared_fail() -> None:
    result = measure(detections(), detections(), contract=tiny_contract(max_detections=3))
    assert "4 detections, the contract declares at most 3" in result.reasons[-1]


def test_pairs_are_as_many_as_can_be_and_one_to_one() -> None:
    """The best overlap of one pair would leave the other detection alone."""
    boxes = np.array([[0, 0, 10, 10], [3, 0, 13, 10]], np.float32)
    same = {"scores": np.array([0.9, 0.8], np.float32), "pred_classes": np.zeros(2, np.int64)}
    expected = {"pred_boxes": boxes, **same}
    actual = {"pred_boxes": boxes + np.float32([3, 0, 3, 0]), **same}
    rows, columns = pair(Rows.of(expected), Rows.of(actual), 0.5, limit_px=0.01, tie=2e-4)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])


def test_the_best_overlap_pairs_where_scores_mislead() -> None:
    boxes = np.array([[0, 0, 20, 10], [4, 0, 24, 10]], np.float32)
    classes = {"pred_classes": np.zeros(2, np.int64)}
    expected = {"pred_boxes": boxes, "scores": np.array([0.8, 0.7], np.float32), **classes}
    actual = {"pred_boxes": boxes[::-1], "scores": np.array([0.8, 0.7], np.float32), **classes}
    rows, columns = pair(Rows.of(expected), Rows.of(actual), 0.5, limit_px=0.01, tie=2e-4)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])


def test_no_pair_is_given_up_for_a_better_one() -> None:
    """A perfect pair beside a forbidden one is worth less than two poor pairs."""
    boxes = np.array([[0, 0, 30, 10], [10, 0, 40, 10], [-10, 0, 20, 10]], np.float32)
    classes = {"pred_classes": np.zeros(2, np.int64)}
    expected = {"pred_boxes": boxes[[0, 1]], "scores": np.array([1, 0.9], np.float32), **classes}
    actual = {"pred_boxes": boxes[[0, 2]], "scores": np.array([0.1, 0.0], np.float32), **classes}
    rows, columns = pair(Rows.of(expected), Rows.of(actual), 0.5, limit_px=0.01, tie=2e-4)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])


def crowd(count: int = 12) -> dict[str, np.ndarray]:
    """Equal detections in a row, each overlapping its neighbours by an IoU of 0.6."""
    x0 = np.arange(count, dtype=np.float32) * 10
    boxes = np.stack([x0, np.zeros(count), x0 + 40, np.full(count, 40)], 1).astype(np.float32)
    scores = np.full(count, 0.8, np.float32)
    return {"pred_boxes": boxes, "scores": scores, "pred_classes": np.zeros(count, np.int64)}


def test_one_flip_in_a_crowd_moves_no_other() -> None:
    """One detection lost at one end and another found at the other: as many pairs as there were before."""
    boxes = tiny_contract(outputs=DETECTION_OUTPUTS, nms_threshold=0.7)
    result = measure(take(crowd(), *range(11)), take(crowd(), *range(1, 12)), contract=boxes)
    assert (result.paired, len(result.missing), len(result.extra)) == (10, 1, 1)
    assert result.errors["box_error_px"] == 0


def test_an_object_is_not_excused_by_the_overlap_with_itself() -> None:
    """Moved by a third of its side, a box overlaps itself by nearly the threshold at which it is dropped."""
    expected = take(detections(masks=False), 0)
    for side in (8, 20, 100):
        box = np.array([[2, 2, 2 + side, 2 + side]], np.float32)
        moved = box + np.float32([side / 3 + 1e-3, 0, side / 3 + 1e-3, 0])
        sides = [{**expected, "pred_boxes": boxes} for boxes in (box, moved)]
        contract = tiny_contract(outputs=DETECTION_OUTPUTS, nms_threshold=0.5)
        result = measure(*sides, contract=contract)
        assert (result.paired, len(result.matching)) == (0, 2), result.missing


def test_a_small_box_is_not_excused_by_an_overlap_that_it_has_not() -> None:
    contract = tiny_contract(outputs=DETECTION_OUTPUTS, nms_threshold=0.5)
    boxes = np.array([[10, 10, 70, 50], [100, 10, 101, 11]], np.float32)
    expected = {
        "pred_boxes": boxes,
        "scores": np.array([0.9, 0.8], np.float32),
        "pred_classes": np.zeros(2, np.int64),
    }
    result = measure(expected, take(expected, 0), contract=contract, scale=16.0)
    assert not result.passed


def test_equal_detections_that_moved_are_not_excused() -> None:
    """Of copies some may be cut from a list, but those that are left stay where they are."""
    copies = crowd(4)
    copies["pred_boxes"] += np.arange(4, dtype=np.float32)[:, None] * np.float32([90, 0, 90, 0])
    contract = tiny_contract(outputs=DETECTION_OUTPUTS)
    moved = {**copies, "pred_boxes": copies["pred_boxes"] + np.float32([0, 60, 0, 60])}
    assert len(measure(copies, moved, contract=contract).matching) == 8
    one = {**copies, "pred_boxes": copies["pred_boxes"].copy()}
    one["pred_boxes"][3] += np.float32([0, 60, 0, 60])
    assert measure(copies, one, contract=contract).passed


def test_a_difference_does_not_overflow() -> None:
    expected, actual = take(detections(), 0), take(detections(), 0)
    expected["scores"][0], actual["scores"][0] = 3e38, -3e38
    result = measure(expected, actual)
    assert not result.passed
    assert result.errors["score_error"] == pytest.approx(6e38)


def test_iou_of_boxes_without_area_is_no_division_by_zero() -> None:
    boxes = np.array([[1, 1, 1, 5], [2, 2, 4, 4]], np.float32)
    assert box_iou(boxes, boxes).tolist() == [[1, 0], [0, 1]]
    inverted = np.array([[4, 4, 2, 2]], np.float32)
    assert box_iou(boxes, inverted).tolist() == [[0], [0]]


def rotated_rows(boxes: np.ndarray) -> Rows:
    count = len(boxes)
    return Rows.of(
        {
            "pred_boxes": boxes.astype(np.float32),
            "scores": np.linspace(0.9, 0.5, count, dtype=np.float32),
            "pred_classes": np.zeros(count, np.int64),
        }
    )


def test_rotated_boxes_are_compared_by_their_corners() -> None:
    boxes = np.array([[20, 20, 16, 6, 30], [60, 20, 8, 10, 179.999], [20, 60, 4, 4, 0]], np.float64)
    turned = boxes + np.array([0, 0, 0, 0, 360])
    turned[1, 4] = -180.001
    same, other = rotated_rows(boxes), rotated_rows(turned)
    rows, columns = pair(same, other, 0.5, limit_px=1e-2, tie=1e-3)
    assert rows.tolist() == columns.tolist() == [0, 1, 2]
    assert np.abs(same.coordinates - other.coordinates).max() < 1e-3
    moved = boxes + np.array([0, 0, 0, 0, 1.0])
    # A turn by 1 degree moves a corner by its distance from the centre, times 0.01745.
    error = np.abs(same.coordinates - rotated_rows(moved).coordinates).max(axis=1)
    assert error[0] == pytest.approx(np.deg2rad(1) * np.hypot(8, 3), rel=0.2)


def test_the_overlap_of_rotated_boxes_is_that_of_the_model() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = (
        torch.rand(30, 5, generator=generator, dtype=torch.float64) * torch.tensor([30, 30, 20, 20, 360]) + 1
    )
    expected = pairwise_iou_rotated(boxes, boxes).numpy()
    for index, box in enumerate(boxes.numpy()):
        np.testing.assert_allclose(rotated_iou(box, boxes.numpy()), expected[index], rtol=0, atol=1e-9)
