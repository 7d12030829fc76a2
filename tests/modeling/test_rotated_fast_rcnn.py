"""Rotated Faster R-CNN: selection by hand, training, and the same detections from a trace."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.config.cfg import CfgNode, load_cfg
from detexport.errors import ConfigError
from detexport.modeling import build_model
from detexport.modeling.roi_heads.rotated_fast_rcnn import fast_rcnn_inference_rotated
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [1.0] * 4],
            "rotated boxes have 5 weights; got: MODEL.ROI_BOX",
        ),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2"], "pooler does not fit RROIHeads"),
        (["MODEL.MASK_ON", True], "RROIHeads has a box head alone"),
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
