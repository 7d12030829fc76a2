from typing import Any

import pytest

from detexport.registry.champions import Champion
from detexport.retraining.data_checks import check_data, label_shift
from detexport.retraining.retrain import _newest_data
from detexport.retraining.settings import DataLimits

LIMITS = DataLimits(
    image_decrease=0.2,
    label_decrease=0.3,
    class_decrease=0.5,
    unlabelled_increase=0.1,
    label_shift=0.2,
    boxes_outside=0,
)


def split(images: int = 100, boxes_outside: int = 0, unlabelled: int = 0, **labels: int) -> dict[str, Any]:
    return {
        "images": images,
        "images_without_labels": unlabelled,
        "labels": labels or {"cat": 60, "dog": 40},
        "boxes_outside": boxes_outside,
        "boxes_outside_ids": list(range(min(boxes_outside, 5))),
    }


def refused(train: dict[str, Any], limits: DataLimits | None = None, **champion: Any) -> list[str]:
    rows = check_data({"train": train}, {"train": split(**champion)}, limits or LIMITS)
    return [row.check for row in rows if not row.passed]


def test_equal_data_pass() -> None:
    assert refused(split()) == []


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (split(images=79), ["images"]),
        (split(images=80), []),
        (split(boxes_outside=1), ["boxes outside their image"]),
        (split(cat=60, dog=40, cow=1), ["labels outside the classes"]),
        (split(cat=60, dog=40, cow=0), ["labels outside the classes"]),
        (split(cat=90, dog=0), ["classes without a label", "label shift"]),
        (split(cat=90), ["classes without a label", "label shift"]),
        (split(cat=81, dog=19), ["classes with fewer labels", "label shift"]),
        (split(cat=79, dog=21), []),
        (split(cat=100, dog=19), ["classes with fewer labels", "label shift"]),
        (split(cat=42, dog=28), []),
        (split(cat=42, dog=27), ["labels"]),
        (split(unlabelled=10), []),
        (split(unlabelled=11), ["images without labels"]),
        (split(cat=0, dog=0), ["labels", "classes without a label", "label shift"]),
    ],
)
def test_each_fault_is_found(train: dict[str, Any], expected: list[str]) -> None:
    assert refused(train) == expected


def test_a_stuff_class_that_lost_its_segments_is_found() -> None:
    before = split() | {"stuff": {"sky": 10, "grass": 10, "road": 0}}
    for stuff, expected in [
        ({"sky": 10, "grass": 5, "road": 0}, []),
        ({"sky": 0, "grass": 10, "road": 1}, ["stuff classes without a label"]),
        ({"sky": 10, "grass": 4}, ["stuff classes with fewer labels"]),
        ({}, ["stuff classes without a label"]),
    ]:
        rows = check_data({"train": split() | {"stuff": stuff}}, {"train": before}, LIMITS)
        assert [row.check for row in rows if not row.passed] == expected


def test_limits_are_configurable() -> None:
    limits = DataLimits(
        image_decrease=1,
        label_decrease=1,
        class_decrease=1,
        unlabelled_increase=1,
        label_shift=1,
        boxes_outside=0.5,
    )
    assert refused(split(images=1, boxes_outside=50, cat=1, dog=99), limits) == []


def test_a_split_that_vanished_is_refused() -> None:
    (row,) = check_data({}, {"val": split()}, LIMITS)
    assert (row.passed, row.data) == (False, "missing")


def test_without_a_champion_only_boxes_outside_are_checked() -> None:
    rows = check_data({"train": split(), "val": split(boxes_outside=3)}, None, LIMITS)
    assert [(row.split, row.passed) for row in rows] == [("train", True), ("val", False)]
    assert rows[1].reason == ("data, val: boxes outside their image: 3 of 100: ids 0, 1, 2 (limit: 0.0%)")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"a": 1}, {"a": 5}, 0),
        ({"a": 1}, {"b": 1}, 1),
        ({"a": 5, "b": 5}, {"a": 3, "b": 1}, 0.25),
        ({"a": 0}, {"a": 0}, 0),
        ({"a": 0}, {"a": 1}, 1),
    ],
)
def test_label_shift_is_the_total_variation_distance(
    before: dict[str, int], now: dict[str, int], expected: float
) -> None:
    assert label_shift(before, now) == pytest.approx(expected)


def test_the_data_are_those_of_the_newest_champion_that_has_statistics() -> None:
    def champion(number: int, data: dict[str, Any] | None) -> Champion:
        return Champion("m", str(number), number, "", (), data, "id")

    known = {"a": champion(1, {"n": 1}), "b": champion(2, {"n": 2}), "c": champion(3, None)}
    assert _newest_data(known) == {"n": 2}
    assert _newest_data({"c": known["c"]}) is None
