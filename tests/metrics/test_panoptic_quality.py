"""Panoptic quality of perfect, wrong and partly correct segments, and of unlabelled pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.data.coco import read_segment_map
from detexport.errors import DataError
from detexport.metrics.panoptic_quality import PanopticQuality, Tally, match_segments
from detexport.system.files import read_json
from synthetic_shapes import synthetic_shapes

THING, STUFF = 7, 9


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=4).write(folder)
    return folder / "annotations/panoptic_val.json"


def ground_truth(annotations: Path, image_id: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the annotated segments of an image as if a model had predicted them."""
    entry = next(e for e in read_json(annotations)["annotations"] if e["image_id"] == image_id)
    true_map = read_segment_map(annotations.parents[1] / "panoptic_val" / entry["file_name"])
    gt_map = np.zeros_like(true_map)
    segments = []
    for number, segment in enumerate(entry["segments_info"], start=1):
        gt_map[true_map == segment["id"]] = number
        is_thing = segment["category_id"] <= 5
        label = segment["category_id"] - 1 if is_thing else segment["category_id"] - 5
        segments.append({"id": number, "isthing": is_thing, "category_id": label})
    return gt_map, segments


def test_ground_truth_has_quality_one(annotations: Path) -> None:
    quality = PanopticQuality(annotations, range(1, 6))
    for image_id in range(1, 5):
        quality.add(image_id, *ground_truth(annotations, image_id))
    metrics = quality.result()
    assert set(metrics) == {f"panoptic/{q}{g}" for q in ("PQ", "SQ", "RQ") for g in ("", "_th", "_st")}
    assert all(value == pytest.approx(1.0) for value in metrics.values())


def test_no_segments_have_quality_zero(annotations: Path) -> None:
    quality = PanopticQuality(annotations, range(1, 6))
    gt_map, _ = ground_truth(annotations, 1)
    quality.add(1, np.zeros_like(gt_map), [])
    assert quality.result()["panoptic/PQ"] == 0.0


def test_things_and_stuff_are_evaluated_separately(annotations: Path) -> None:
    quality = PanopticQuality(annotations, range(1, 6))
    gt_map, segments = ground_truth(annotations, 1)
    things = [segment for segment in segments if segment["isthing"]]
    quality.add(1, np.where(np.isin(gt_map, [s["id"] for s in things]), gt_map, 0), things)
    metrics = quality.result()
    assert metrics["panoptic/PQ_th"] == pytest.approx(1.0)
    assert metrics["panoptic/PQ_st"] == 0.0
    assert 0 < metrics["panoptic/PQ"] < 1


def test_things_of_other_categories_do_not_count(annotations: Path) -> None:
    gt_map, segments = ground_truth(annotations, 1)
    thing = next(segment for segment in segments if segment["isthing"])
    quality = PanopticQuality(annotations, [thing["category_id"] + 1])
    kept = [
        s | {"category_id": 0} if s["isthing"] else s
        for s in segments
        if not s["isthing"] or s["category_id"] == thing["category_id"]
    ]
    quality.add(1, np.where(np.isin(gt_map, [s["id"] for s in kept]), gt_map, 0), kept)
    assert quality.result()["panoptic/PQ"] == pytest.approx(1.0)


def test_a_data_set_without_segments(annotations: Path) -> None:
    with pytest.raises(DataError, match="no panoptic annotations"):
        PanopticQuality(annotations.with_name("none.json"), [1])


def match_rows(
    gt_row: list[int], gt: dict[int, int], row: list[int], predicted: dict[int, int]
) -> dict[int, Tally]:
    """Return the tallies of an image of one row."""
    tallies = {THING: Tally(), STUFF: Tally()}
    match_segments(tallies, np.array([gt_row]), gt, np.array([row]), predicted)
    return tallies


def test_qualities_by_hand() -> None:
    """A match with IoU 3/4, a pair of IoU 1/2, which is no match, and a segment without a pair."""
    tallies = match_rows(
        [1, 1, 1, 1, 2, 2, 0, 0, 3, 3],
        {1: THING, 2: THING, 3: STUFF},
        [4, 4, 4, 9, 5, 9, 9, 9, 9, 9],
        {4: THING, 5: THING, 9: STUFF},
    )
    assert tallies[THING] == Tally(iou=0.75, tp=1, fp=1, fn=1)
    assert tallies[THING].qualities == pytest.approx((0.375, 0.75, 0.5))
    # 9 shares two of its four labelled pixels with 3: 2 / (2 + 4 - 2).
    assert tallies[STUFF] == Tally(fp=1, fn=1)
    assert tallies[STUFF].qualities == (0.0, 0.0, 0.0)


def test_another_category_is_no_match() -> None:
    tallies = match_rows([1, 1], {1: THING}, [4, 4], {4: STUFF})
    assert tallies == {THING: Tally(fn=1), STUFF: Tally(fp=1)}


def test_unlabelled_pixels_are_ignored() -> None:
    # Without its unlabelled half the IoU of 4 is 1; more than half of 5 is unlabelled.
    tallies = match_rows(
        [1, 1, 0, 0, 0, 0, 2], {1: THING, 2: STUFF}, [4, 4, 4, 4, 5, 5, 5], {4: THING, 5: STUFF}
    )
    assert tallies[THING] == Tally(iou=1.0, tp=1)
    assert tallies[STUFF] == Tally(iou=1.0, tp=1)
    tallies = match_rows([0, 0, 0, 2], {2: THING}, [5, 5, 5, 5], {5: STUFF})
    assert tallies == {THING: Tally(fn=1), STUFF: Tally()}
