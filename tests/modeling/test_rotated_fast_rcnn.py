"""Rotated Faster R-CNN: selection by hand, training, and the same detections from a trace."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detexport.config.cfg import CfgNode, load_cfg
from detexport.errors import ConfigError, ExportError
from detexport.modeling import build_model
from detexport.modeling.box_regression import Box2BoxTransformRotated, decoding_weights
from detexport.modeling.roi_heads.rotated_fast_rcnn import (
    RotatedFastRCNNOutputLayers,
    fast_rcnn_inference_rotated,
)
from detexport.structures import Instances, RotatedBoxes

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
ROTATED: list[Any] = [
    "MODEL.MASK_ON", False, "MODEL.RESNETS.DEPTH", 18,
    "MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "MODEL.RPN.BBOX_REG_WEIGHTS", [1.0] * 5,
    "MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator", "MODEL.ANCHOR_GENERATOR.ANGLES", [[-45, 0, 45]],
    "MODEL.ROI_HEADS.NAME", "RROIHeads", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0, 5.0, 1.0],
    "MODEL.RPN.PRE_NMS_TOPK_TEST", 30, "MODEL.RPN.POST_NMS_TOPK_TEST", 20,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 30, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05,
]  # fmt: skip


def configured(*overrides: Any) -> CfgNode:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list([*ROTATED, *overrides])
    return cfg


def example(**fields: Any) -> dict[str, Any]:
    return {"image": torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(0)), **fields}


def test_detections_are_suppressed_within_a_class_and_know_their_proposals() -> None:
    boxes = torch.tensor([[20.0, 20.0, 10.0, 4.0, 30.0], [20.0, 20.0, 10.0, 4.0, 210.0], [50, 20, 10, 4, 0]])
    scores = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.3, 0.0], [0.04, 0.96, 0.0]])
    (found,), (proposals,) = fast_rcnn_inference_rotated(
        [boxes.repeat(1, 2)], [scores], [(40, 52)], score_thresh=0.2, nms_thresh=0.5, topk_per_image=10
    )
    # The second box is the first, turned by 180 degrees.
    assert proposals.tolist() == [2, 0, 1]
    assert found.pred_classes.tolist() == [1, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.96, 0.8, 0.3])
    # The angle of 210 degrees is one of -150; the horizontal box ends at the right edge, 52 px.
    assert found.pred_boxes.tensor[2, 4] == -150
    assert found.pred_boxes.tensor[0].tolist() == [48.5, 20, 7, 4, 0]


def test_it_trains_on_rotated_ground_truth() -> None:
    torch.manual_seed(0)
    model = build_model(configured()).train()
    truth = Instances((64, 96), gt_classes=torch.tensor([1, 0]))
    truth.gt_boxes = RotatedBoxes([[30.0, 30.0, 40.0, 20.0, 30.0], [70.0, 40.0, 16.0, 30.0, -45.0]])
    empty = Instances((64, 96), gt_boxes=RotatedBoxes(torch.zeros(0, 5)), gt_classes=torch.zeros(0).long())
    losses = model([example(instances=truth), example(instances=empty)])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert (model.proposal_generator.rpn_head.anchor_deltas.weight.grad != 0).any()
    assert (model.roi_heads.box_predictor.bbox_pred.weight.grad != 0).any()


def test_a_trace_finds_the_same_at_another_size() -> None:
    torch.manual_seed(0)
    model = build_model(configured()).eval()
    names = model.contract(()).output_names
    assert model.contract(()).outputs[0].shape == ("R", 5)
    graph = model.image_graph(names).eval()
    with torch.no_grad():
        traced = torch.jit.trace(graph, (example()["image"],), check_trace=False)
        image = torch.randint(0, 255, (3, 90, 50), dtype=torch.uint8)
        for found, expected in zip(traced(image), graph(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


class Doubling(Box2BoxTransformRotated):
    """Boxes of twice the width and height."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        sizes = deltas.new_tensor([1.0, 1.0, 2.0, 2.0, 1.0]).repeat(deltas.shape[1] // 5)
        return super().apply_deltas(deltas, boxes) * sizes


WEIGHTS = (10.0, 10.0, 5.0, 5.0, 1.0)


def seeded(transform: Box2BoxTransformRotated) -> Any:
    """A model as if it had been constructed with this transform."""
    torch.manual_seed(0)
    model = build_model(configured("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    for module in (model.proposal_generator, model.roi_heads.box_predictor):
        module.box2box_transform = transform
        module.box_weights = decoding_weights(transform, Box2BoxTransformRotated)
    return model


@pytest.mark.parametrize("transform", [Doubling(WEIGHTS), Box2BoxTransformRotated(WEIGHTS, -0.5)])
def test_it_decodes_by_its_own_transform_in_a_trace_too(transform: Box2BoxTransformRotated) -> None:
    model, names = seeded(transform), ("pred_boxes", "scores")
    image, other = example()["image"], torch.randint(0, 255, (3, 90, 50), dtype=torch.uint8)
    with torch.no_grad():
        found, plain = (
            one.inference([{"image": image}], do_postprocess=False)[0]
            for one in (model, seeded(Box2BoxTransformRotated(WEIGHTS)))
        )
        boxes, scores = torch.jit.trace(model.image_graph(names), (other,), check_trace=False)(image)
    torch.testing.assert_close(scores, found.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(boxes, found.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    sizes = [one.pred_boxes.tensor[:, 2:4].prod(dim=1).max() for one in (found, plain)]
    assert sizes[0] != sizes[1]
    with pytest.raises(ConfigError, match=r"apply_deltas of .*a Box2BoxTransformRotated with the default"):
        model.batch_graph()


class Numbered(RotatedFastRCNNOutputLayers):
    """Adds a field to the detections."""

    def inference(self, predictions: Any, proposals: Any) -> Any:
        found, kept = super().inference(predictions, proposals)
        for one, rows in zip(found, kept, strict=True):
            one.proposal = rows
        return found, kept


def test_an_overridden_inference_is_called_and_graphs_refuse_it() -> None:
    model = seeded(Box2BoxTransformRotated(WEIGHTS))
    with torch.no_grad():
        expected = model.inference([example()], do_postprocess=False)[0]
        model.roi_heads.box_predictor.__class__ = Numbered
        found = model.inference([example()], do_postprocess=False)[0]
    assert found.has("proposal")
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    with pytest.raises(ExportError, match=r"Numbered\.inference.*no detect of its own"):
        model.image_graph(("scores",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [1.0] * 4],
            "rotated boxes have 5 weights; got: MODEL.ROI_BOX",
        ),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2"], "pooler does not fit RROIHeads"),
        (["MODEL.MASK_ON", True], "RROIHeads supports only a box head"),
        (["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "ciou"], "not defined for rotated boxes; got: MODEL.ROI"),
        (
            [
                *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2"),
                *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [1.0] * 4),
            ],
            "proposals do not fit the ROI heads.*RRPN and StandardROIHeads",
        ),
    ],
)
def test_what_does_not_fit_rotated_boxes_is_named(overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(configured(*overrides))
