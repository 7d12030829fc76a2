"""ROI heads as they are built: classes, channels, and what they return for proposals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.config.cfg import load_cfg
from detexport.modeling import build_model
from detexport.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, ROIHeads, StandardROIHeads

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
