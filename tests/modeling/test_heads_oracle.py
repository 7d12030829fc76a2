"""Rotated, dense and segmentation models against stored outputs: see ``new_models_oracle``."""

from typing import Any

import pytest
import torch

from detexport.config.cfg import load_cfg
from detexport.layers import ShapeSpec
from detexport.modeling import FCOS, FPN, GeneralizedRCNNWithTTA, ResNet, build_model
from detexport.modeling.backbone.fpn import LastLevelP6P7
from detexport.modeling.backbone.resnet import BasicStem, BottleneckBlock
from detexport.modeling.meta_arch.fcos import FCOSHead
from new_models_oracle import (
    Case,
    cases,
    check_box_head,
    check_classes_of_pixels,
    check_instances,
    check_map,
    check_maps,
    check_rpn,
    check_sem_seg,
    needs_new_models,
    run,
)

WATCHED = {"backbone": "backbone", "backbone.bottom_up": "bottom_up"}


def configured(case: Case) -> Any:
    return case.load(build_model(load_cfg(case.folder / "config.yaml")))


def check_backbone(case: Case, seen: dict[str, Any]) -> dict[str, Any]:
    stored = case.stored("intermediates")
    check_map(stored, "input_tensor", seen["input_tensor"])
    check_maps(stored, "backbone", seen["backbone"])
    if "bottom_up" in seen:
        check_maps(stored, "bottom_up", seen["bottom_up"])
    return stored


@needs_new_models
@pytest.mark.parametrize("case", cases(lambda case: case.folder.name.startswith("rotated_")))
def test_rotated_faster_rcnn(case: Case) -> None:
    watched = {
        **WATCHED,
        "proposal_generator": "rpn",
        "proposal_generator.rpn_head": "rpn_head",
        "roi_heads.box_predictor": "box",
    }
    outputs, seen = run(configured(case), case, watched)
    stored = check_backbone(case, seen)
    check_rpn(stored, seen["rpn_head"], seen["rpn"])
    check_box_head(stored, 0, seen["box"])
    for index, output in enumerate(outputs):
        check_instances(case, index, output["instances"])


@needs_new_models
@pytest.mark.parametrize("case", cases(lambda case: case.folder.name.startswith("deeplab_")))
def test_deeplab(case: Case) -> None:
    watched = {
        **WATCHED,
        "sem_seg_head": "sem_seg_head",
        "sem_seg_head.aspp": "aspp",
        "sem_seg_head.decoder.res5.project_conv": "aspp",
    }
    outputs, seen = run(configured(case), case, watched)
    stored = check_backbone(case, seen)
    check_map(stored, "aspp_out", seen["aspp"])
    check_map(stored, "sem_seg_head_out", seen["sem_seg_head"])
    for index, output in enumerate(outputs):
        check_sem_seg(case, index, output["sem_seg"])


@needs_new_models
@pytest.mark.parametrize("case", cases(lambda case: case.folder.name.startswith("panoptic_deeplab")))
def test_panoptic_deeplab(case: Case) -> None:
    model = configured(case)
    assert list(model.grouping.thing_ids) == case.meta["thing_contiguous_ids"]
    assert model.grouping.label_divisor == case.meta["label_divisor"]
    watched = {
        **WATCHED,
        "sem_seg_head": "sem_seg_head",
        "sem_seg_head.decoder.res5.project_conv": "aspp",
        "ins_embed_head": "ins_embed_head",
    }
    outputs, seen = run(model, case, watched)
    stored = check_backbone(case, seen)
    check_map(stored, "aspp_out", seen["aspp"])
    check_map(stored, "sem_seg_head_out", seen["sem_seg_head"])
    for name, value in zip(("center", "offset"), seen["ins_embed_head"], strict=True):
        check_map(stored, name, value)
    for index, output in enumerate(outputs):
        check_sem_seg(case, index, output["sem_seg"])
        panoptic, segments = output["panoptic_seg"]
        assert segments is None
        check_classes_of_pixels(panoptic.numpy(), case.stored("outputs")[f"im{index}_panoptic_seg"])
        check_instances(case, index, output["instances"])


def fcos() -> FCOS:
    """The model that the case's ``model.py`` describes."""
    width = 32
    stages, channels, inner = [], 8, 4
    for index in range(4):
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                2,
                stride_per_block=[1 if index == 0 else 2, 1],
                in_channels=channels,
                out_channels=4 * inner,
                bottleneck_channels=inner,
                stride_in_1x1=False,
                norm="FrozenBN",
            )
        )
        channels, inner = 4 * inner, 2 * inner
    names = ["res3", "res4", "res5"]
    stem = BasicStem(in_channels=3, out_channels=8, norm="FrozenBN")
    return FCOS(
        backbone=FPN(
            ResNet(stem, stages, out_features=names),
            names,
            width,
            top_block=LastLevelP6P7(width, width, in_feature="p5"),
        ),
        head=FCOSHead(
            input_shape=[ShapeSpec(channels=width)] * 5, num_classes=4, conv_dims=[width] * 2, norm="GN"
        ),
        num_classes=4,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        test_score_thresh=0.7846,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
    )


@needs_new_models
@pytest.mark.parametrize("case", cases(lambda case: case.folder.name == "fcos_R50_FPN"))
def test_fcos(case: Case) -> None:
    outputs, seen = run(case.load(fcos()), case, {**WATCHED, "head": "head"})
    stored = check_backbone(case, seen)
    for name, maps in zip(("logits", "deltas", "ctrness"), seen["head"], strict=True):
        for level, value in enumerate(maps):
            check_map(stored, f"fcos_{name}_lvl{level}", value)
    for index, output in enumerate(outputs):
        check_instances(case, index, output["instances"])


@needs_new_models
@pytest.mark.parametrize("case", cases(lambda case: case.meta.get("tta", False)))
def test_test_time_augmentation(case: Case) -> None:
    cfg = load_cfg(case.folder / "config.yaml")
    model = GeneralizedRCNNWithTTA(cfg, case.load(build_model(cfg)))
    with torch.no_grad():
        outputs = model(case.batch())
    for index, output in enumerate(outputs):
        check_instances(case, index, output["instances"])
