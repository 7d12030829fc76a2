"""ROI heads as they are built: classes, channels, and what they return for proposals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.config.cfg import load_cfg
from detexport.modeling import build_model
from detexport.modeling.roi_heads import (
    CascadeROIHeads,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from detexport.structures import Boxes, Instances
from small_architectures import small_model

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
C4 = [
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16]]),
]
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [([], StandardROIHeads), (C4, Res5ROIHeads), (CASCADE, CascadeROIHeads)],
    ids=["standard", "res5", "cascade"],
)
def test_detections_have_a_row_for_each_box_score_class_and_mask(
    overrides: list[Any], kind: type[ROIHeads]
) -> None:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list([*overrides, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    assert type(model.roi_heads) is kind
    with torch.no_grad():
        (detected,) = model([{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)}])
    instances = detected["instances"]
    assert 0 < len(instances) <= cfg.TEST.DETECTIONS_PER_IMAGE
    assert instances.pred_boxes.tensor.shape == (len(instances), 4)
    assert instances.scores.tolist() == sorted(instances.scores.tolist(), reverse=True)
    assert instances.pred_classes.max() < cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert instances.pred_masks.shape == (len(instances), 96, 128)


def test_a_cascade_refines_the_boxes_of_the_stage_before() -> None:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(CASCADE)
    heads = build_model(cfg).roi_heads
    ious = cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS
    assert len(heads.box_head) == len(heads.box_predictor) == len(ious)
    assert heads.final_predictor() is heads.box_predictor[-1]


def test_foreground_proposals() -> None:
    proposals = Instances((8, 8), gt_classes=torch.tensor([0, 3, -1, 2]))
    (chosen,), (mask,) = select_foreground_proposals([proposals], bg_label=3)
    assert chosen.gt_classes.tolist() == [0, 2]
    assert mask.tolist() == [True, False, False, True]


@pytest.mark.parametrize("overrides", [[], C4, CASCADE], ids=["standard", "res5", "cascade"])
def test_masks_of_given_boxes_are_those_of_the_detections(overrides: list[Any]) -> None:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 50, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *overrides])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    inputs = [{"image": torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)}]
    with torch.no_grad():
        (found,) = model.inference(inputs, do_postprocess=False)
        bare = Instances(found.image_size, pred_boxes=found.pred_boxes, pred_classes=found.pred_classes)
        (again,) = model.inference(inputs, [bare], do_postprocess=False)
    assert len(found) > 0
    torch.testing.assert_close(again.pred_masks, found.pred_masks)
    assert torch.equal(again.pred_boxes.tensor, found.pred_boxes.tensor)


def test_sampled_proposals_keep_their_fields_and_get_those_of_the_ground_truth_alone() -> None:
    heads = small_model("faster_rcnn").roi_heads
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    proposals = Instances((64, 96), proposal_boxes=Boxes(boxes), objectness_logits=torch.tensor([2.0, 1.0]))
    target = Instances((64, 96), gt_boxes=Boxes(boxes[:1] + 1), gt_classes=torch.tensor([3]))
    target.gt_color, target.note = torch.tensor([7]), torch.tensor([5])
    (sampled,) = heads.label_and_sample_proposals([proposals], [target])
    assert set(sampled.get_fields()) == {
        "proposal_boxes",
        "objectness_logits",
        "gt_classes",
        "gt_boxes",
        "gt_color",
    }
    assert len(sampled) == 3
    assert sampled.objectness_logits.max() > 20  # the ground truth, as a proposal
