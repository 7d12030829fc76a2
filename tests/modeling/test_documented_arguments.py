"""Models by the documented arguments of their classes, as detectron2's lazy configurations give them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from detexport.config import LazyCall as L
from detexport.config import instantiate
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling import (
    FPN,
    RPN,
    Box2BoxTransform,
    CascadeROIHeads,
    DefaultAnchorGenerator,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    GeneralizedRCNN,
    KRCNNConvDeconvUpsampleHead,
    MaskRCNNConvUpsampleHead,
    Matcher,
    PanopticFPN,
    Res5ROIHeads,
    ResNet,
    RetinaNet,
    ROIPooler,
    SemSegFPNHead,
    StandardROIHeads,
    StandardRPNHead,
)
from detexport.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detexport.modeling.backbone.resnet import BasicStem, BottleneckBlock
from detexport.modeling.meta_arch.retinanet import LevelsRetinaNetHead, RetinaNetHead
from detexport.structures import Boxes, Instances, Keypoints

WIDTH, NAMES = 8, ["p2", "p3", "p4", "p5"]
PIXELS: dict[str, Any] = {"pixel_mean": [103.5, 116.3, 123.7], "pixel_std": [1.0, 1.0, 1.0]}


def resnet(*features: str) -> Any:
    stages, channels = [], 8
    for index in range(int(features[-1][-1]) - 1):
        stages.append(
            L(ResNet.make_stage)(
                block_class=BottleneckBlock,
                num_blocks=1,
                stride_per_block=[1 if index == 0 else 2],
                in_channels=channels,
                bottleneck_channels=4,
                out_channels=16 * (index + 1),
                norm="FrozenBN",
            )
        )
        channels = 16 * (index + 1)
    return L(ResNet)(stem=L(BasicStem)(out_channels=8), stages=stages, out_features=list(features))


def rpn(names: list[str], strides: list[int], channels: int) -> Any:
    return L(RPN)(
        in_features=names,
        head=L(StandardRPNHead)(in_channels=channels, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32]], aspect_ratios=[0.5, 1.0, 2.0], strides=strides, offset=0.0
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=transform(),
        batch_size_per_image=8,
        positive_fraction=0.5,
        pre_nms_topk=(40, 20),
        post_nms_topk=(20, 10),
        nms_thresh=0.7,
    )


def transform(scale: float = 1.0) -> Any:
    return L(Box2BoxTransform)(weights=[scale, scale, scale / 2, scale / 2])


def pooler(side: int, scales: list[float]) -> Any:
    return L(ROIPooler)(output_size=side, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")


SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def box_head() -> Any:
    shape = L(ShapeSpec)(channels=WIDTH, height=7, width=7)
    return L(FastRCNNConvFCHead)(input_shape=shape, conv_dims=[], fc_dims=[16])


def predictor(channels: int = 16, scale: float = 10.0, **options: Any) -> Any:
    return L(FastRCNNOutputLayers)(
        input_shape=ShapeSpec(channels=channels),
        test_score_thresh=0.0,
        box2box_transform=transform(scale),
        num_classes=3,
        **options,
    )


def mask_head(channels: int, side: int) -> Any:
    shape = L(ShapeSpec)(channels=channels, width=side, height=side)
    return L(MaskRCNNConvUpsampleHead)(input_shape=shape, num_classes=3, conv_dims=[8, 8])


def fpn_detector() -> Any:
    """The arguments of a Mask R-CNN with FPN."""
    pyramid = L(FPN)(
        bottom_up=resnet("res2", "res3", "res4", "res5"),
        in_features="${.bottom_up.out_features}",
        out_channels=WIDTH,
        top_block=L(LastLevelMaxPool)(),
    )
    heads = L(StandardROIHeads)(
        num_classes=3,
        batch_size_per_image=8,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=NAMES,
        box_pooler=pooler(7, SCALES),
        box_head=box_head(),
        box_predictor=predictor(),
        mask_in_features=NAMES,
        mask_pooler=pooler(14, SCALES),
        mask_head=mask_head(WIDTH, 14),
    )
    generator = rpn([*NAMES, "p6"], [4, 8, 16, 32, 64], WIDTH)
    return L(GeneralizedRCNN)(backbone=pyramid, proposal_generator=generator, roi_heads=heads, **PIXELS)


def cascade() -> Any:
    model = fpn_detector()
    for name in ("box_head", "box_predictor", "proposal_matcher"):
        model.roi_heads.pop(name)
    model.roi_heads.update(
        _target_=CascadeROIHeads,
        box_heads=[box_head() for _ in range(3)],
        box_predictors=[predictor(scale=scale, cls_agnostic_bbox_reg=True) for scale in (10.0, 20.0, 30.0)],
        proposal_matchers=[L(Matcher)(thresholds=[iou], labels=[0, 1]) for iou in (0.5, 0.6, 0.7)],
    )
    return model


def panoptic() -> Any:
    model = fpn_detector()
    model._target_ = PanopticFPN
    model.sem_seg_head = L(SemSegFPNHead)(
        input_shape={
            name: L(ShapeSpec)(stride=stride, channels=WIDTH)
            for name, stride in zip(NAMES, (4, 8, 16, 32), strict=True)
        },
        ignore_value=255,
        num_classes=4,
        conv_dims=32,
        common_stride=4,
        loss_weight=0.5,
        norm="GN",
    )
    return model


def keypoints() -> Any:
    model = fpn_detector()
    for name in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(name)
    model.roi_heads.update(
        keypoint_in_features=NAMES,
        keypoint_pooler=pooler(14, SCALES),
        keypoint_head=L(KRCNNConvDeconvUpsampleHead)(
            input_shape=L(ShapeSpec)(channels=WIDTH, width=14, height=14),
            num_keypoints=5,
            conv_dims=[8],
            loss_normalizer="visible",
        ),
    )
    return model


def c4() -> Any:
    heads = L(Res5ROIHeads)(
        num_classes=3,
        batch_size_per_image=8,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        in_features=["res4"],
        pooler=pooler(14, [1 / 16]),
        res5=L(ResNet.make_stage)(
            block_class=BottleneckBlock,
            num_blocks=2,
            stride_per_block=[2, 1],
            in_channels=48,
            bottleneck_channels=4,
            out_channels=64,
            norm="FrozenBN",
            stride_in_1x1=True,
        ),
        box_predictor=predictor(64),
        mask_head=mask_head(64, 7),
    )
    generator = rpn(["res4"], [16], 48)
    return L(GeneralizedRCNN)(
        backbone=resnet("res4"), proposal_generator=generator, roi_heads=heads, **PIXELS
    )


def retinanet(norm: str = "") -> Any:
    names = ["p3", "p4", "p5", "p6", "p7"]
    return L(RetinaNet)(
        backbone=L(FPN)(
            bottom_up=resnet("res3", "res4", "res5"),
            in_features=["res3", "res4", "res5"],
            out_channels=WIDTH,
            top_block=L(LastLevelP6P7)(in_channels=64, out_channels="${..out_channels}"),
        ),
        head=L(RetinaNetHead)(
            input_shape=[ShapeSpec(channels=WIDTH)] * 5,
            num_classes="${..num_classes}",
            conv_dims=[WIDTH, 2 * WIDTH],
            prior_prob=0.3,
            num_anchors=3,
            norm=norm,
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32]], aspect_ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128], offset=0.0
        ),
        box2box_transform=transform(),
        anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
        num_classes=3,
        head_in_features=names,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        **PIXELS,
    )


FIELDS = {
    cascade: "pred_masks",
    panoptic: "pred_masks",
    keypoints: "pred_keypoints",
    c4: "pred_masks",
    retinanet: "scores",
}


@pytest.mark.parametrize("model", FIELDS)
def test_it_is_built_by_its_documented_arguments_and_detects(model: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    net = instantiate(model()).eval()
    with torch.no_grad():
        output = net([{"image": torch.randint(0, 255, (3, 64, 96)).byte()}])[0]
    found = output["instances"]
    assert len(found)
    assert found.has(FIELDS[model])
    assert ("panoptic_seg" in output) == (model is panoptic)


def test_a_cascade_samples_by_the_matcher_of_its_first_stage() -> None:
    heads = instantiate(cascade()).roi_heads
    assert [one.thresholds for one in heads.proposal_matchers] == [[0.5], [0.6], [0.7]]
    assert heads.proposal_matcher is heads.proposal_matchers[0]
    model = cascade()
    model.roi_heads.proposal_matchers.pop()
    with pytest.raises(ConfigError, match="3 box_heads, 3 box_predictors, 2 proposal_matchers"):
        instantiate(model)


def test_keypoints_that_are_visible_normalize_their_loss() -> None:
    head = instantiate(keypoints()).roi_heads.keypoint_head
    truth = torch.tensor([[[10.0, 10.0, 2.0]] * 5])
    proposals = Instances((64, 96), proposal_boxes=Boxes([[0.0, 0.0, 56.0, 56.0]]))
    proposals.gt_keypoints = Keypoints(truth)
    loss = head.losses(torch.zeros(1, 5, 56, 56), [proposals])["loss_keypoint"]
    assert loss.item() == pytest.approx(math.log(56 * 56))


def test_a_head_with_batch_normalization_has_statistics_of_each_level() -> None:
    plain, by_level = (instantiate(retinanet(norm)).head for norm in ("LN", "BN"))
    assert type(plain) is RetinaNetHead
    assert type(by_level) is LevelsRetinaNetHead
    heads: tuple[Any, ...] = (plain, by_level)
    for head in heads:
        assert [tuple(head.cls_subnet[index].weight.shape[:2]) for index in (0, 3)] == [(8, 8), (16, 8)]
        assert head.cls_score.weight.shape[:2] == (9, 16)
    assert "cls_subnet.1.4.running_mean" in by_level.state_dict()
