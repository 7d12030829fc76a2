"""What models record in training, where a storage is active."""

import pytest
import torch

from detexport.structures import PolygonMasks
from detexport.utils.events import EventStorage
from small_architectures import OVERRIDES, example, small_model

RPN = {"rpn/num_pos_anchors", "rpn/num_neg_anchors"}
SAMPLES = {"roi_head/num_fg_samples", "roi_head/num_bg_samples"}
BOX = {"fast_rcnn/cls_accuracy", "fast_rcnn/fg_cls_accuracy", "fast_rcnn/false_negative"}
MASK = {"mask_rcnn/accuracy", "mask_rcnn/false_positive", "mask_rcnn/false_negative"}
STAGES = {f"stage{k}/{name}" for k in range(3) for name in BOX | (SAMPLES if k else set())}
RECORDED = {
    "faster_rcnn": RPN | SAMPLES | BOX,
    "mask_rcnn": RPN | SAMPLES | BOX | MASK,
    "mask_rcnn_c4": RPN | SAMPLES | BOX | MASK,
    "keypoint_rcnn": RPN | SAMPLES | BOX,
    "cascade_rcnn": RPN | SAMPLES | STAGES | MASK,
    "pointrend": RPN | SAMPLES | BOX | MASK | {"point/accuracy"},
    "fast_rcnn": SAMPLES | BOX,
    "retinanet": {"num_pos_anchors"},
    "proposal_network": RPN,
    "semantic_segmentor": set(),
    "panoptic_fpn": RPN | SAMPLES | BOX | MASK,
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_losses_are_the_same_with_a_storage_that_is_told_how_it_goes(name: str) -> None:
    batch = [example(seed=0), example(seed=1)]
    alone = small_model(name).train()
    torch.manual_seed(1)
    expected = alone(batch)
    watched = small_model(name).train()
    torch.manual_seed(1)
    with EventStorage(7) as storage:
        losses = watched(batch)
    assert {key: loss.item() for key, loss in losses.items()} == {
        key: loss.item() for key, loss in expected.items()
    }
    seen = storage.latest()
    # A later stage's boxes may all be background, which then has no accuracy to tell.
    optional = {key for key in RECORDED[name] if "stage" in key and "samples" not in key}
    assert RECORDED[name] - optional <= set(seen) <= RECORDED[name]
    for key, (value, iteration) in seen.items():
        assert iteration == 7
        assert value >= 0
        assert "num_" in key or value <= 1


def test_anchors_and_samples_are_counted_by_image() -> None:
    model, batch = small_model("mask_rcnn").train(), [example(seed=0), example(seed=1)]
    with EventStorage() as storage:
        model(batch)
    seen = {name: value for name, (value, _) in storage.latest().items()}
    per_image = model.proposal_generator.batch_size_per_image
    assert seen["rpn/num_pos_anchors"] + seen["rpn/num_neg_anchors"] == per_image
    assert seen["roi_head/num_fg_samples"] + seen["roi_head/num_bg_samples"] == 64
    assert 0 < seen["roi_head/num_fg_samples"] <= 16


@pytest.mark.parametrize("name", ["mask_rcnn", "mask_rcnn_c4", "panoptic_fpn"])
def test_masks_may_be_polygons(name: str) -> None:
    batch = [example(seed=0), example(seed=1)]
    losses = []
    for as_polygons in (False, True):
        if as_polygons:
            for one in batch:
                boxes = one["instances"].gt_boxes.tensor.round().tolist()
                corners = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes]
                one["instances"].gt_masks = PolygonMasks(corners)
        model = small_model(name).train()
        torch.manual_seed(1)
        losses.append(model(batch)["loss_mask"])
    assert losses[1] > 0
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0)
