"""In what a validation plan is weaker than another one."""

from dataclasses import replace
from typing import Any

import pytest

from detexport.parity.settings import default_settings
from detexport.parity.validation_plan import ALWAYS, ValidationPlan, plan_weaknesses, search_of
from tolerances import LIMITS

REQUIRED = default_settings()
PLAN = ValidationPlan(
    images=REQUIRED.images,
    scales=tuple(sorted(REQUIRED.scales)),
    kinds={"data": 24, **dict.fromkeys(ALWAYS, 1)},
    search=search_of(REQUIRED),
    tolerance=LIMITS,
    precision="float32",
    accuracy_images=REQUIRED.accuracy_images,
    budget=REQUIRED.budgets["float32"],
    min_accuracy=REQUIRED.min_accuracy,
    min_detections=REQUIRED.min_detections,
)


def weaknesses(**changes: Any) -> list[str]:
    return plan_weaknesses(replace(PLAN, **changes).to_json(), REQUIRED)


def test_the_required_plan_is_not_weaker() -> None:
    assert weaknesses() == []


def test_a_stricter_plan_is_not_weaker() -> None:
    search = {**PLAN.search, "threshold_runs": 80, "threshold_distance": 1e-6, "offset": 1e-4}
    tolerance = {**LIMITS, "score": 1e-5, "pair_iou": 0.9}
    assert weaknesses(images=9, scales=(0.5, 0.75, 1.0, 1.5), search=search, tolerance=tolerance) == []


@pytest.mark.parametrize(
    ("changes", "weakness"),
    [
        ({"images": 7}, "images: 7, required at least 8"),
        ({"scales": (1.0, 1.5)}, "scales: 1, 1.5, required also 0.75"),
        ({"kinds": {**PLAN.kinds, "batch": 0}}, "kinds of inputs: no batch"),
        ({"accuracy_images": 10}, "accuracy_images: 10, required at least 100"),
        ({"budget": 0.5}, "budgets.float32: 0.5, required at most 0.001"),
        ({"min_accuracy": 0.0}, "min_accuracy: 0, required at least 0.1"),
        ({"min_detections": 0}, "min_detections: 0, required at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_weakness_is_named_with_both_values(changes: dict[str, Any], weakness: str) -> None:
    assert weaknesses(**changes) == [weakness]


@pytest.mark.parametrize("name", sorted(PLAN.search))
def test_each_limit_of_the_search_has_its_direction(name: str) -> None:
    """A search is weaker with fewer runs and smaller mosaics, or if it ends further from a threshold."""
    factor = 10 if name in ("threshold_distance", "offset") else 0.1
    (weakness,) = weaknesses(search={**PLAN.search, name: PLAN.search[name] * factor})
    assert weakness.startswith(f"inputs.{name}: ")


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_each_tolerance_has_its_direction(name: str) -> None:
    """Objects are paired less strictly by a lower IoU; all other limits are weaker the higher they are."""
    factor = 0.5 if name == "pair_iou" else 2
    (weakness,) = weaknesses(tolerance={**LIMITS, name: LIMITS[name] * factor})
    assert weakness.startswith(f"tolerance.{name}: ")


def test_a_precision_whose_accuracy_is_not_required_needs_no_images() -> None:
    required = replace(REQUIRED, accuracy_precisions=("int8",))
    plan = replace(PLAN, accuracy_images=0, budget=None)
    assert plan_weaknesses(plan.to_json(), required) == []
    assert plan_weaknesses(replace(plan, precision="int8").to_json(), required) == [
        "accuracy_images: 0, required at least 100"
    ]


def test_a_limit_that_a_former_version_did_not_record_is_a_weakness() -> None:
    search = {name: value for name, value in PLAN.search.items() if name != "threshold_distance"}
    expected = f"inputs.threshold_distance: not in the certificate, required at most {1e-5:g}"
    assert weaknesses(search=search) == [expected]
