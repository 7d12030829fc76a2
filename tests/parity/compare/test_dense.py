from typing import Any

import numpy as np
import pytest

from detexport.contract import PanopticRule
from detexport.parity.compare import SampleParity, compare
from detexport.processing.postprocess import combine_panoptic
from tiny_artifacts import KINDS, tiny_contract
from tolerances import TOLERANCE

HEIGHT, WIDTH = 60, 100
RULE = PanopticRule(overlap_threshold=0.5, stuff_area_limit=50, instances_score_threshold=0.4)


def semantic() -> dict[str, np.ndarray]:
    return {"sem_seg": np.random.default_rng(0).normal(0, 5, (3, HEIGHT, WIDTH)).astype(np.float32)}


def panoptic(scores: tuple[float, ...] = (0.9, 0.8, 0.5), stuff_rows: int = 20) -> dict[str, Any]:
    """Three things in a row, over stuff of class 1, and below of class 2."""
    count = len(scores)
    boxes = np.array([[30 * i, 5, 30 * i + 20, 35] for i in range(count)], np.float32)
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for index in range(count):
        masks[index, 5:35, 30 * index : 30 * index + 20] = True
    labels = np.ones((HEIGHT, WIDTH), np.int64)
    labels[HEIGHT - stuff_rows :] = 2
    things = {
        "pred_boxes": boxes,
        "scores": np.array(scores, np.float32),
        "pred_classes": np.arange(count) % 2,
        "pred_masks": masks,
    }
    sem_seg = np.stack([labels == k for k in range(3)]).astype(np.float32)
    return combined({**things, "sem_seg": sem_seg})


def combined(outputs: dict[str, Any]) -> dict[str, Any]:
    ids, info = combine_panoptic(outputs, outputs["sem_seg"].argmax(0), RULE)
    return {**outputs, "panoptic_seg": ids, "segments_info": info}


def measure(expected: dict[str, Any], actual: dict[str, Any], kind: str = "panoptic") -> SampleParity:
    contract = tiny_contract(**{**KINDS[kind], **({"panoptic": RULE} if kind == "panoptic" else {})})
    return compare(expected, actual, tolerance=TOLERANCE, contract=contract, scale=1.0)


@pytest.mark.parametrize(("error", "passed"), [(0, True), (1e-3, True), (3e-3, False)])
def test_logits(error: float, passed: bool) -> None:
    actual = semantic()
    actual["sem_seg"][2, 7, 9] += np.float32(error)
    result = measure(semantic(), actual, "semantic")
    assert result.passed is passed
    assert result.errors["sem_seg_error"] == pytest.approx(error, rel=1e-2)
    assert passed or "sem_seg: 1 of 18000 logits beyond the tolerance" in result.reasons[0]
    assert (result.expected, result.actual, result.paired) == (0, 0, 0)


def test_logits_of_another_size_or_that_are_not_finite_fail() -> None:
    smaller = {"sem_seg": semantic()["sem_seg"][:, :-1]}
    assert "sem_seg: runtime (3, 59, 100)" in measure(semantic(), smaller, "semantic").reasons[0]
    faulty = semantic()
    faulty["sem_seg"][0, 0, 0] = np.inf
    assert "NaN or infinite" in measure(semantic(), faulty, "semantic").reasons[0]


def test_pixels_of_another_class_are_counted() -> None:
    actual = semantic()
    labels = actual["sem_seg"].argmax(0)
    actual["sem_seg"][labels[3, 4], 3, 4] = -99
    actual["sem_seg"][labels[5, 6], 5, 6] += 1
    result = measure(semantic(), actual, "semantic")
    assert result.errors["sem_seg_class_ratio"] == pytest.approx(1 / 6000)
    assert measure(semantic(), semantic(), "semantic").errors["sem_seg_class_ratio"] == 0


def test_the_first_of_equal_logits_is_the_class() -> None:
    flat = {"sem_seg": np.zeros((3, 2, 2), np.float32)}
    nearly = {"sem_seg": flat["sem_seg"] + np.float32([0, 1e-6, 0])[:, None, None]}
    result = measure(flat, nearly, "semantic")
    assert result.passed
    assert result.errors["sem_seg_class_ratio"] == 1


def test_equal_segments_pass() -> None:
    result = measure(panoptic(), panoptic())
    assert result.passed, result.reasons
    assert len(panoptic()["segments_info"]) == 5
    assert result.errors["panoptic_error_ratio"] == result.errors["panoptic_quality_error"] == 0


@pytest.mark.parametrize(("pixels", "passed"), [(6, True), (7, False)])
def test_a_thousandth_of_the_pixels_may_differ(pixels: int, passed: bool) -> None:
    actual = panoptic()
    actual["sem_seg"][:2, 0, :pixels] = 0
    actual["sem_seg"][2, 0, :pixels] = 1
    result = measure(panoptic(), {**combined(actual), "sem_seg": panoptic()["sem_seg"]})
    assert result.errors["panoptic_error_ratio"] == pixels / 6000
    assert result.passed is passed


def test_a_segment_of_another_category_is_another_segment() -> None:
    actual = panoptic()
    actual["segments_info"][4]["category_id"] = 1
    result = measure(panoptic(), actual)
    assert any("missing: segment of stuff 2, 2000 px" in reason for reason in result.reasons)
    assert any("panoptic_seg: 2000 of 6000 px" in reason for reason in result.reasons)


def test_a_thing_that_points_to_another_detection_fails() -> None:
    actual = panoptic()
    actual["segments_info"][0]["instance_id"] = 2
    (reason, *_) = measure(panoptic(), actual).reasons
    assert "segment of class 0, score 0.9000 belongs to another detection" in reason


def test_ids_may_change_places_where_scores_are_tied() -> None:
    first, second = panoptic((0.9, 0.9, 0.5)), panoptic((0.9, 0.9, 0.5))
    order = [1, 0, 2]
    swapped = {name: second[name][order] for name in ("pred_boxes", "scores", "pred_classes", "pred_masks")}
    result = measure(first, combined({**swapped, "sem_seg": first["sem_seg"]}))
    assert result.passed, result.reasons
    assert result.errors["panoptic_error_ratio"] == 0


def overlapping(scores: tuple[float, float], columns: int, first: int = 0) -> dict[str, Any]:
    """Two things of 20 columns of which both want the last columns of the left one; ``first`` is best."""
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 5:35, 10:30] = True
    masks[1, 5:35, 30 - columns : 50 - columns] = True
    order = [first, 1 - first]
    things = {
        "pred_boxes": np.array([[10, 5, 30, 35], [30 - columns, 5, 50 - columns, 35]], np.float32)[order],
        "scores": np.array(scores, np.float32),
        "pred_classes": np.array([0, 1])[order],
        "pred_masks": masks[order],
    }
    sem_seg = np.stack([np.full((HEIGHT, WIDTH), k == 1) for k in range(3)]).astype(np.float32)
    return combined({**things, "sem_seg": sem_seg})


@pytest.mark.parametrize("columns", [4, 9, 10, 11, 20])
def test_what_tied_things_both_want_may_belong_to_either(columns: int) -> None:
    """Of two that want more than half of each other, the second is dropped."""
    first, second = overlapping((0.9, 0.9), columns), overlapping((0.9, 0.9), columns, first=1)
    assert len(first["segments_info"]) == len(second["segments_info"]) == (2 if columns > 10 else 3)
    result = measure(first, second)
    assert result.passed, result.reasons
    assert result.errors["panoptic_error_ratio"] == 0
    assert result.errors["panoptic_quality_error"] > 0.1


@pytest.mark.parametrize("columns", [4, 11])
def test_no_others_may(columns: int) -> None:
    first, second = overlapping((0.9, 0.899), columns), overlapping((0.9, 0.899), columns, first=1)
    second["scores"] = second["scores"][::-1].copy()
    flipped = {
        name: second[name][::-1].copy() for name in ("scores", "pred_boxes", "pred_classes", "pred_masks")
    }
    for segment in second["segments_info"]:
        if segment["isthing"]:
            segment["instance_id"] = 1 - segment["instance_id"]
    assert not measure(first, {**second, **flipped}).passed


def test_what_tied_things_both_want_belongs_to_one_of_them() -> None:
    first, second = overlapping((0.9, 0.9), 4), overlapping((0.9, 0.9), 4)
    second["panoptic_seg"][first["pred_masks"].all(0)] = 3
    stuff = second["segments_info"][2]
    stuff["area"] = int(np.count_nonzero(second["panoptic_seg"] == 3))
    result = measure(first, second)
    assert result.errors["panoptic_error_ratio"] == 30 * 4 / 6000
    assert "panoptic_seg: 120 of 6000 px" in result.reasons[0]


def test_the_quality_of_segments_is_symmetric_and_misses_nothing() -> None:
    first, second = panoptic(), panoptic((0.9, 0.8))
    there, back = measure(first, second), measure(second, first)
    quality = there.errors["panoptic_quality_error"]
    assert quality == pytest.approx(back.errors["panoptic_quality_error"])
    # Things of class 0: one of two and one match; stuff 1 has what the third thing leaves.
    stuff = 60 * 100 - 2000 - 3 * 600
    assert quality == pytest.approx(1 - np.mean([2 / 3, 1, stuff / (stuff + 600), 1]))


@pytest.mark.parametrize(("score", "passed"), [(0.40005, True), (0.4005, False)])
@pytest.mark.parametrize("lost", ["expected", "actual"])
def test_a_thing_at_the_score_threshold_may_be_on_one_side_only(
    score: float, passed: bool, lost: str
) -> None:
    has, lacks = panoptic((0.9, 0.8, score)), panoptic((0.9, 0.8, score - 1e-4))
    if not passed:
        lacks = combined({**has, "scores": np.array([0.9, 0.8, 0.3], np.float32)}) | {"scores": has["scores"]}
    assert len(lacks["segments_info"]) == len(has["segments_info"]) - 1
    result = measure(*((lacks, has) if lost == "expected" else (has, lacks)))
    assert result.passed is passed, result.reasons


@pytest.mark.parametrize(("columns", "passed"), [(10, True), (9, False)])
def test_a_thing_that_is_half_taken_may_be_on_one_side_only(columns: int, passed: bool) -> None:
    """The mask of the second covers ``columns`` of 20 columns of the third; one more pixel drops it."""
    has = panoptic()
    has["pred_masks"][1, 5:35, 60 : 60 + columns] = True
    has["pred_masks"][1, 5:35, 30:50] = False
    has = combined(has)
    lacks = has | {"pred_masks": has["pred_masks"].copy()}
    lacks["pred_masks"][1, 5, 60 + columns] = True
    assert len(has["segments_info"]) == 5
    if passed:
        lacks = combined(lacks)
    else:
        outputs = combined(lacks | {"scores": np.array([0.9, 0.8, 0.1], np.float32)})
        lacks |= {name: outputs[name] for name in ("panoptic_seg", "segments_info")}
    assert len(lacks["segments_info"]) == 4
    result = measure(has, lacks)
    assert result.passed is passed, result.reasons


def test_stuff_at_its_least_area_may_be_on_one_side_only() -> None:
    has, lacks = panoptic(), panoptic()
    for outputs, pixels in ((has, 53), (lacks, 48)):
        outputs["sem_seg"][:, -20:] = [[[0]], [[1]], [[0]]]
        outputs["sem_seg"][:, -1, :pixels] = [[0], [0], [1]]
    has, lacks = combined(has), combined(lacks) | {"sem_seg": has["sem_seg"]}
    assert (len(has["segments_info"]), len(lacks["segments_info"])) == (5, 4)
    assert measure(has, lacks).passed
    lacks["panoptic_seg"] = np.where(lacks["panoptic_seg"] == 1, 0, lacks["panoptic_seg"])
    lacks["segments_info"] = lacks["segments_info"][1:]
    assert not measure(has, lacks).passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda o: o["segments_info"].pop(),
            "segments_info: ids [1, 2, 3, 4], in panoptic_seg [1, 2, 3, 4, 5]",
        ),
        (lambda o: o["segments_info"][4].update(area=3), "segments_info: area 3 of id 5"),
        (lambda o: o.pop("segments_info"), "fields missing: ['segments_info']"),
        (lambda o: o.pop("pred_masks"), "fields missing: ['pred_masks']"),
        (lambda o: o.update(panoptic_seg=o["panoptic_seg"].astype(np.int64)), "panoptic_seg: dtype int64"),
    ],
)
def test_segments_that_are_none_cannot_be_compared(change: Any, reason: str) -> None:
    actual = panoptic()
    change(actual)
    result = measure(panoptic(), actual)
    assert reason in result.reasons[0]
    assert result.errors == {}


def test_stuff_of_no_pixel_is_a_segment_like_any_other() -> None:
    outputs = panoptic()
    hidden = {"id": len(outputs["segments_info"]) + 1, "isthing": False, "category_id": 0, "area": 0}
    with_hidden = {**outputs, "segments_info": [*outputs["segments_info"], hidden]}
    assert measure(with_hidden, with_hidden).passed
    assert not measure(with_hidden, outputs).passed
    assert not measure(outputs, with_hidden).passed
