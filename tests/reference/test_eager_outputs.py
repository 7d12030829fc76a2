"""The eager model's outputs as arrays, for every kind of model, and a copy with another threshold."""

from typing import Any

import numpy as np
import pytest
import torch

from detexport.contract import Contract
from detexport.errors import ConfigError
from detexport.outputs import field_faults
from detexport.reference.eager_outputs import run_eager, run_eager_batch, with_score_threshold
from small_architectures import draw, small_model

DETECTORS = ("mask_rcnn", "keypoint_rcnn", "panoptic_fpn")
OTHERS = ("semantic_segmentor", "proposal_network")
IMAGES = [draw(64, 96, 1).numpy(), draw(80, 48, 2).numpy()]
SIZES = [(128, 192), (40, 24)]
LOW = 0.01


@pytest.fixture(scope="module", params=[*DETECTORS, *OTHERS])
def model(request: pytest.FixtureRequest) -> Any:
    net = small_model(request.param).eval()
    return with_score_threshold(net, LOW) if request.param in DETECTORS else net


@pytest.fixture(scope="module")
def contract(model: Any) -> Contract:
    made: Contract = model.contract(tuple("abcde") if hasattr(model, "roi_heads") else ())
    return made


def test_outputs_are_valid_and_of_the_wanted_size(model: Any, contract: Contract) -> None:
    found = run_eager_batch(model, IMAGES, SIZES, contract)
    for outputs, size in zip(found, SIZES, strict=True):
        assert field_faults(outputs, size) == []
        assert set(contract.row_names) <= outputs.keys()
        if contract.row_names:
            assert len(outputs[contract.row_names[0]]) > 0


def test_only_what_a_graph_outputs_is_kept(model: Any, contract: Contract) -> None:
    """Eager keypoints come with their heatmaps, of which no artifact knows."""
    (outputs,) = run_eager_batch(model, IMAGES[:1], SIZES[:1], contract)
    extra = {"panoptic_seg", "segments_info"} if contract.panoptic else set()
    assert outputs.keys() == {*contract.output_names, *extra}


def test_one_image_is_a_batch_of_one(model: Any, contract: Contract) -> None:
    (expected,) = run_eager_batch(model, IMAGES[:1], SIZES[:1], contract)
    outputs = run_eager(model, IMAGES[0], SIZES[0], contract)
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value)


def test_each_image_has_a_size() -> None:
    model = small_model("faster_rcnn").eval()
    with pytest.raises(ValueError, match="shorter"):
        run_eager_batch(model, IMAGES, SIZES[:1], model.contract(tuple("abcde")))


def test_a_lower_threshold_keeps_the_detections_and_adds_some() -> None:
    model = with_score_threshold(small_model("faster_rcnn").eval(), 0.21)
    contract = model.contract(tuple("abcde"))
    few, many = (
        run_eager(net, IMAGES[0], SIZES[0], contract)["scores"]
        for net in (model, with_score_threshold(model, LOW))
    )
    assert 0 < len(few) < len(many)
    np.testing.assert_array_equal(many[many > 0.21], few)


def test_the_copy_shares_nothing_with_the_model() -> None:
    model = small_model("retinanet").eval()
    before = model.score_threshold
    copied: Any = with_score_threshold(model, 0.875)
    assert (model.score_threshold, copied.score_threshold) == (before, 0.875)
    with torch.no_grad():
        next(copied.parameters()).zero_()
    assert next(model.parameters()).any()


def test_a_model_without_scores_has_no_threshold() -> None:
    with pytest.raises(ConfigError, match="has no score threshold; got: SemanticSegmentor"):
        with_score_threshold(small_model("semantic_segmentor"), 0.5)
