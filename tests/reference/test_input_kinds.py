"""Which inputs a reference has, and how often the model may run for them."""

from dataclasses import replace
from pathlib import Path

import pytest

from detexport.parity.settings import default_settings
from detexport.reference.input_kinds import (
    BATCH,
    EDGE_CASES,
    MOST,
    NEAR,
    ODD,
    ONE,
    PROBED_BELOW,
    QUICK,
    TIES,
    probed_threshold,
)
from tiny_artifacts import KINDS as MODELS
from tiny_artifacts import tiny_contract

PLAN = replace(default_settings().plan, scales=(1.0, 0.5), mosaics=3, one_runs=12, threshold_runs=40)
INSTANCES, PIXELS, PROPOSALS, PANOPTIC = (
    tiny_contract(**MODELS[kind]) for kind in ("instances", "semantic", "proposals", "panoptic")
)


@pytest.mark.parametrize(
    ("kinds", "runs"),
    [
        ((), 0),
        ((ODD,), 1),
        ((ODD, TIES), 2),
        ((BATCH,), 2),
        ((MOST,), 3),
        ((ONE,), 2 + 12 + 1 + 44),
        ((NEAR,), 2 + 12 + 1 + 44),
        ((ONE, NEAR), 2 + 12 + 1 + 44),
        (EDGE_CASES, 8 + 2 + 3 + 59),
    ],
)
def test_the_runs_are_those_of_the_images_and_of_each_kind(kinds: tuple[str, ...], runs: int) -> None:
    plan = replace(PLAN, kinds=kinds)
    assert plan.most_runs(0, INSTANCES) == runs
    assert plan.most_runs(5, INSTANCES) == 10 + runs


def test_a_model_without_scores_is_not_searched() -> None:
    assert PLAN.most_runs(1, PIXELS) == 2 + 8 + 2
    assert PLAN.most_runs(1, PROPOSALS) == 2 + 8 + 2 + 3


def test_a_second_threshold_is_searched_too() -> None:
    assert PLAN.most_runs(1, PANOPTIC) == PLAN.most_runs(1, INSTANCES) + 44


def test_the_check_of_an_export_runs_few_times() -> None:
    assert replace(PLAN, kinds=QUICK).most_runs(1, PANOPTIC) == len(PLAN.scales) + 2


@pytest.mark.parametrize(
    ("threshold", "probed"), [(0.5, 0.49), (0.05, 0.04), (2 * PROBED_BELOW, 0.01), (0.008, 0.004), (0.0, 0.0)]
)
def test_a_probe_has_a_threshold_little_below_the_models(threshold: float, probed: float) -> None:
    assert probed_threshold(tiny_contract(score_threshold=threshold)) == pytest.approx(probed)


def test_a_probe_of_a_panoptic_model_is_below_the_lower_threshold() -> None:
    assert probed_threshold(PANOPTIC) == pytest.approx(0.24)
    higher = tiny_contract(**MODELS["panoptic"], score_threshold=0.9)
    assert probed_threshold(higher) == pytest.approx(0.39)


def test_the_page_explains_every_edge_case() -> None:
    page = (Path(__file__).parents[2] / "docs/parity.md").read_text(encoding="utf-8")
    assert [kind for kind in EDGE_CASES if f"`{kind}`" not in page] == []
