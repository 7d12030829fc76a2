"""The eager model on all inputs of a plan: which are searched for, and what it leaves of the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detexport.data.coco import CocoRecord
from detexport.parity.settings import default_settings
from detexport.reference.eager_outputs import run_eager, with_score_threshold
from detexport.reference.eager_samples import eager_samples
from detexport.reference.input_kinds import BATCH, NEAR, ODD
from detexport.reference.store import DATA
from small_architectures import draw, small_model

PLAN = replace(default_settings().plan, scales=(1.0,), kinds=(ODD, NEAR, BATCH), threshold_runs=4, one_runs=2)


@pytest.fixture
def records(tmp_path: Path) -> list[CocoRecord]:
    file = tmp_path / "1.png"
    Image.fromarray(draw(48, 64, 3).permute(1, 2, 0).numpy()).save(file)
    return [CocoRecord(1, file, 48, 64, ())]


def sampled(net: Any, contract: Any, records: list[CocoRecord]) -> dict[str, list[Any]]:
    by_kind: dict[str, list[Any]] = {}
    for meta, image, outputs in eager_samples(net, contract, records, PLAN):
        by_kind.setdefault(meta.kind, []).append((meta, image, outputs))
    return by_kind


def test_a_detector_is_searched_by_a_copy_and_stays_as_it_is(records: list[CocoRecord]) -> None:
    net: Any = with_score_threshold(small_model("faster_rcnn").eval(), 0.21)
    contract = net.contract(tuple("abcde"))
    found = sampled(net, contract, records)
    assert found.keys() == {DATA, ODD, NEAR, BATCH}
    assert net.roi_heads.box_predictor.score_threshold == 0.21
    for meta, image, outputs in (*found[DATA], *found[ODD], *found[NEAR]):
        expected = run_eager(net, image, meta.output_size, contract)
        np.testing.assert_array_equal(outputs["scores"], expected["scores"])
        assert (outputs["scores"] > 0.21).all()


def test_a_score_below_the_threshold_is_known_from_the_copy_alone(records: list[CocoRecord]) -> None:
    net = with_score_threshold(small_model("faster_rcnn").eval(), 0.21)
    contract: Any = net.contract(tuple("abcde"))  # type: ignore[operator]
    below = [one for one in sampled(net, contract, records)[NEAR] if one[0].threshold_distance <= 0]
    assert below
    for meta, image, _ in below:
        lowered = run_eager(with_score_threshold(net, 0.2), image, meta.output_size, contract)["scores"]
        distances = lowered.astype(np.float64) - meta.threshold
        assert np.abs(distances - meta.threshold_distance).min() < 1e-9


@pytest.mark.parametrize("name", ["semantic_segmentor", "proposal_network"])
def test_a_model_without_scores_is_not_probed(records: list[CocoRecord], name: str) -> None:
    net = small_model(name).eval()
    assert sampled(net, net.contract(()), records).keys() == {DATA, ODD, BATCH}
