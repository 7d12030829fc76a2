"""Detectors over the newer backbones: they train, and their graphs equal eager at any size of the image."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from detexport.config import LazyCall as L
from detexport.config import instantiate
from detexport.contract import ResizeRule
from detexport.layers import ShapeSpec
from detexport.modeling import (
    RPN,
    Box2BoxTransform,
    DefaultAnchorGenerator,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    GeneralizedRCNN,
    MaskRCNNConvUpsampleHead,
    Matcher,
    MViT,
    ROIPooler,
    SimpleFeaturePyramid,
    StandardROIHeads,
    StandardRPNHead,
    SwinTransformer,
    ViT,
)
from detexport.modeling.backbone import FPN, RegNet
from detexport.modeling.backbone.fpn import LastLevelMaxPool
from detexport.modeling.backbone.regnet import ResBottleneckBlock, SimpleStem
from small_architectures import example

SQUARE, WIDTH = 128, 8
FIELDS = ("pred_boxes", "scores", "pred_classes", "pred_masks")


def pyramid(bottom_up: Any, names: list[str], square_pad: int) -> Any:
    return L(FPN)(
        bottom_up=bottom_up, in_features=names, out_channels=WIDTH, norm="LN",
        top_block=L(LastLevelMaxPool)(), square_pad=square_pad,
    )  # fmt: skip


def vit() -> Any:
    net = L(ViT)(
        img_size=64, embed_dim=16, depth=2, num_heads=2, window_size=3, window_block_indexes=[0],
        residual_block_indexes=[1], use_rel_pos=True, pretrain_img_size=48, drop_path_rate=0.1,
    )  # fmt: skip
    return L(SimpleFeaturePyramid)(
        net=net, in_feature="last_feat", out_channels=WIDTH, scale_factors=[4.0, 2.0, 1.0, 0.5],
        top_block=L(LastLevelMaxPool)(), square_pad=SQUARE,
    )  # fmt: skip


def swin() -> Any:
    net = L(SwinTransformer)(embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 2], window_size=3)
    return pyramid(net, ["p0", "p1", "p2", "p3"], SQUARE)


def mvit() -> Any:
    net = L(MViT)(img_size=64, embed_dim=8, depth=5, last_block_indexes=[0, 1, 3, 4], adaptive_window_size=8)
    return pyramid(net, ["scale2", "scale3", "scale4", "scale5"], SQUARE)


def regnet() -> Any:
    net = L(RegNet)(
        stem_class=SimpleStem, stem_width=8, block_class=ResBottleneckBlock, depth=7, w_a=10, w_0=16,
        w_m=1.8, group_width=8, se_ratio=0.25, norm="SyncBN", out_features=["s1", "s2", "s3", "s4"],
    )  # fmt: skip
    return pyramid(net, ["s1", "s2", "s3", "s4"], 0)


BACKBONES = [vit, swin, mvit, regnet]


def detector(backbone: Callable[[], Any]) -> Any:
    """A small Mask R-CNN with the heads of the newer baselines."""
    levels = ["p2", "p3", "p4", "p5"]
    transform = L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0])
    rpn = L(RPN)(
        in_features=[*levels, "p6"],
        head=L(StandardRPNHead)(in_channels=WIDTH, num_anchors=3, conv_dims=[-1, -1]),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[16 * 2**k] for k in range(5)], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=transform,
        batch_size_per_image=16,
        positive_fraction=0.5,
        pre_nms_topk=[50, 50],
        post_nms_topk=[20, 20],
    )

    def pooler(side: int) -> Any:
        scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        return L(ROIPooler)(output_size=side, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")

    heads = L(StandardROIHeads)(
        num_classes=4,
        batch_size_per_image=16,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1]),
        box_in_features=levels,
        box_pooler=pooler(7),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=WIDTH, height=7, width=7),
            conv_dims=[8],
            fc_dims=[16],
            conv_norm="LN",
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=16),
            box2box_transform=transform,
            num_classes="${..num_classes}",
            test_score_thresh=0.0,
        ),
        mask_in_features=levels,
        mask_pooler=pooler(14),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=ShapeSpec(channels=WIDTH, height=14, width=14),
            num_classes="${..num_classes}",
            conv_dims=[8, 8],
            conv_norm="LN",
        ),
    )
    torch.manual_seed(0)
    return instantiate(
        L(GeneralizedRCNN)(
            backbone=backbone(),
            proposal_generator=rpn,
            roi_heads=heads,
            pixel_mean=[103.5, 116.3, 123.7],
            pixel_std=[57.0, 57.0, 57.0],
        )
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_trains(backbone: Callable[[], Any]) -> None:
    model = detector(backbone).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(8):
        torch.manual_seed(1)
        loss = sum(model([example(64, 96), example(96, 64)]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss))
    assert totals[-1] < totals[0]
    without = [name for name, one in model.named_parameters() if one.grad is None]
    assert without == []


@pytest.mark.filterwarnings("ignore:an image side:UserWarning")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_trace_equals_eager(backbone: Callable[[], Any]) -> None:
    model = detector(backbone).eval()
    graph = model.image_graph(FIELDS)
    with torch.no_grad():
        traced = torch.jit.trace(graph, example(64, 96)["image"], check_trace=False)
        for size in ((64, 96), (128, 128), (33, 90), (150, 40), (1, 1)):
            image = example(*size)["image"]
            for actual, expected in zip(traced(image), graph(image), strict=True):
                torch.testing.assert_close(actual, expected)


def test_images_are_padded_to_the_square() -> None:
    model = detector(vit).eval()
    assert model.resize == ResizeRule(SQUARE, SQUARE)
    assert model.preprocess_image([{"image": torch.zeros(3, 20, 30)}]).tensor.shape == (1, 3, SQUARE, SQUARE)
    with pytest.warns(UserWarning, match="150 px is cropped"):
        cropped = model.preprocess_image([{"image": torch.zeros(3, 150, 30)}])
    assert cropped.tensor.shape == (1, 3, SQUARE, SQUARE)
    assert cropped.image_sizes == [(150, 30)]
    with pytest.raises(ValueError, match=r"does not fit into the square .* a side of 150 px"):
        model.preprocess_image([{"image": torch.zeros(3, 150, 30)}] * 2)
