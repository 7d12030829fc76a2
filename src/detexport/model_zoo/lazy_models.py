"""The models of detectron2's common lazy configurations, which other lazy configurations change.

Targets are dotted paths, so that nothing is imported before a model is built.
"""

from collections.abc import Callable
from typing import Any

from detexport.config.lazy import LazyCall as L
from detexport.config.lazy_python import node
from detexport.config.lazy_yaml import NAME, PARTIAL, TARGET

MODELING = "detectron2.modeling"
HEADS = f"{MODELING}.roi_heads"
LEVELS = ("p2", "p3", "p4", "p5")
STRIDES = (4, 8, 16, 32)
BGR: dict[str, Any] = {"pixel_mean": [103.53, 116.28, 123.675], "pixel_std": [1.0, 1.0, 1.0]}
RGB: dict[str, Any] = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
"""Mean and standard deviation of ImageNet's channels, on the scale 0..255."""


def _shape(**sizes: Any) -> Any:
    return L("detectron2.layers.ShapeSpec")(**sizes)


def _resnet(*features: str) -> Any:
    return L(f"{MODELING}.ResNet")(
        stem=L(f"{MODELING}.backbone.BasicStem")(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(f"{MODELING}.ResNet.make_default_stages")(depth=50, stride_in_1x1=True, norm="FrozenBN"),
        out_features=list(features),
    )


def _matcher(thresholds: list[float], labels: list[int], allow_low_quality: bool) -> Any:
    return L(f"{MODELING}.matcher.Matcher")(
        thresholds=thresholds, labels=labels, allow_low_quality_matches=allow_low_quality
    )


def _transform(x: float, size: float) -> Any:
    return L(f"{MODELING}.box_regression.Box2BoxTransform")(weights=[x, x, size, size])


def _anchors(sizes: list[list[float]], strides: list[int]) -> Any:
    return L(f"{MODELING}.anchor_generator.DefaultAnchorGenerator")(
        sizes=sizes, aspect_ratios=[0.5, 1.0, 2.0], strides=strides, offset=0.0
    )


def _pooler(side: int, strides: tuple[int, ...] = STRIDES) -> Any:
    return L(f"{MODELING}.poolers.ROIPooler")(
        output_size=side,
        scales=[1 / stride for stride in strides],
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


def _rpn(
    names: list[str], sizes: list[list[float]], strides: list[int], channels: int, pre: Any, post: Any
) -> Any:
    return L(f"{MODELING}.proposal_generator.RPN")(
        in_features=names,
        head=L(f"{MODELING}.proposal_generator.StandardRPNHead")(
            in_channels=channels, num_anchors=3 * len(sizes[0])
        ),
        anchor_generator=_anchors(sizes, strides),
        anchor_matcher=_matcher([0.3, 0.7], [0, -1, 1], True),
        box2box_transform=_transform(1.0, 1.0),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=pre,
        post_nms_topk=post,
        nms_thresh=0.7,
    )


def _box_head() -> Any:
    return L(f"{HEADS}.FastRCNNConvFCHead")(
        input_shape=_shape(channels=256, height=7, width=7), conv_dims=[], fc_dims=[1024, 1024]
    )


def _box_predictor(scale: float = 1.0, **options: Any) -> Any:
    return L(f"{HEADS}.FastRCNNOutputLayers")(
        **{"input_shape": _shape(channels=1024), "num_classes": "${..num_classes}", **options},
        test_score_thresh=0.05,
        box2box_transform=_transform(10.0 * scale, 5.0 * scale),
    )


def _mask_head(conv_dims: list[int], **shape: Any) -> Any:
    return L(f"{HEADS}.MaskRCNNConvUpsampleHead")(
        input_shape=_shape(**shape), num_classes="${..num_classes}", conv_dims=conv_dims
    )


def _sampling(num_classes: int = 80) -> dict[str, Any]:
    return {
        "num_classes": num_classes,
        "batch_size_per_image": 512,
        "positive_fraction": 0.25,
        "proposal_matcher": _matcher([0.5], [0, 1], False),
    }


def mask_rcnn_fpn() -> Any:
    """Return a Mask R-CNN with ResNet-50 and FPN."""
    sizes = [[32.0], [64.0], [128.0], [256.0], [512.0]]
    return L(f"{MODELING}.GeneralizedRCNN")(
        backbone=L(f"{MODELING}.FPN")(
            bottom_up=_resnet("res2", "res3", "res4", "res5"),
            in_features="${.bottom_up.out_features}",
            out_channels=256,
            top_block=L(f"{MODELING}.backbone.fpn.LastLevelMaxPool")(),
        ),
        proposal_generator=_rpn([*LEVELS, "p6"], sizes, [*STRIDES, 64], 256, [2000, 1000], [1000, 1000]),
        roi_heads=L(f"{HEADS}.StandardROIHeads")(
            **_sampling(),
            box_in_features=list(LEVELS),
            box_pooler=_pooler(7),
            box_head=_box_head(),
            box_predictor=_box_predictor(),
            mask_in_features=list(LEVELS),
            mask_pooler=_pooler(14),
            mask_head=_mask_head([256] * 5, channels=256, width=14, height=14),
        ),
        **BGR,
        input_format="BGR",
    )


def mask_rcnn_c4() -> Any:
    """Return a Mask R-CNN with ResNet-50 whose heads share res5."""
    side, width = "${...pooler.output_size}", "${...res5.out_channels}"
    return L(f"{MODELING}.GeneralizedRCNN")(
        backbone=_resnet("res4"),
        proposal_generator=_rpn(
            ["res4"], [[32.0, 64.0, 128.0, 256.0, 512.0]], [16], 1024, [12000, 6000], [2000, 1000]
        ),
        roi_heads=L(f"{HEADS}.Res5ROIHeads")(
            **_sampling(),
            in_features=["res4"],
            pooler=_pooler(14, (16,)),
            res5=L(f"{MODELING}.ResNet.make_stage")(
                block_class={NAME: f"{MODELING}.backbone.resnet.BottleneckBlock"},
                num_blocks=3,
                stride_per_block=[2, 1, 1],
                in_channels=1024,
                bottleneck_channels=512,
                out_channels=2048,
                norm="FrozenBN",
                stride_in_1x1=True,
            ),
            box_predictor=_box_predictor(input_shape=_shape(channels=width, height=1, width=1)),
            mask_head=_mask_head([256], channels=width, width=side, height=side),
        ),
        **BGR,
        input_format="BGR",
    )


def cascade_rcnn() -> Any:
    """Return a Cascade Mask R-CNN with ResNet-50 and FPN."""
    model = mask_rcnn_fpn()
    for name in ("box_head", "box_predictor", "proposal_matcher"):
        model.roi_heads.pop(name)
    model.roi_heads[TARGET] = f"{HEADS}.CascadeROIHeads"
    model.roi_heads.box_heads = [_box_head() for _ in range(3)]
    model.roi_heads.box_predictors = [
        _box_predictor(scale, cls_agnostic_bbox_reg=True, num_classes="${...num_classes}")
        for scale in (1.0, 2.0, 3.0)
    ]
    model.roi_heads.proposal_matchers = [_matcher([iou], [0, 1], False) for iou in (0.5, 0.6, 0.7)]
    return model


def keypoint_rcnn_fpn() -> Any:
    """Return a Keypoint R-CNN with ResNet-50 and FPN."""
    model = mask_rcnn_fpn()
    for name in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(name)
    model.roi_heads.num_classes = 1
    model.roi_heads.keypoint_in_features = list(LEVELS)
    model.roi_heads.keypoint_pooler = _pooler(14)
    model.roi_heads.keypoint_head = L(f"{HEADS}.KRCNNConvDeconvUpsampleHead")(
        input_shape=_shape(channels=256, width=14, height=14),
        num_keypoints=17,
        conv_dims=[512] * 8,
        loss_normalizer="visible",
    )
    model.proposal_generator.post_nms_topk = [1500, 1000]
    model.roi_heads.box_predictor.smooth_l1_beta = 0.5
    return model


def panoptic_fpn() -> Any:
    """Return a Panoptic FPN with ResNet-50."""
    model = mask_rcnn_fpn()
    model[TARGET] = f"{MODELING}.PanopticFPN"
    model.sem_seg_head = L(f"{MODELING}.meta_arch.semantic_seg.SemSegFPNHead")(
        input_shape={
            name: _shape(stride=stride, channels="${....backbone.out_channels}")
            for name, stride in zip(LEVELS, STRIDES, strict=True)
        },
        ignore_value=255,
        num_classes=54,
        conv_dims=128,
        common_stride=4,
        loss_weight=0.5,
        norm="GN",
    )
    return model


def retinanet() -> Any:
    """Return a RetinaNet with ResNet-50 and FPN."""
    return L(f"{MODELING}.RetinaNet")(
        backbone=L(f"{MODELING}.FPN")(
            bottom_up=_resnet("res3", "res4", "res5"),
            in_features=["res3", "res4", "res5"],
            out_channels=256,
            top_block=L(f"{MODELING}.backbone.fpn.LastLevelP6P7")(
                in_channels=2048, out_channels="${..out_channels}"
            ),
        ),
        head=L(f"{MODELING}.meta_arch.retinanet.RetinaNetHead")(
            input_shape=[_shape(channels=256) for _ in range(5)],
            num_classes="${..num_classes}",
            conv_dims=[256] * 4,
            prior_prob=0.01,
            num_anchors=9,
        ),
        anchor_generator=_anchors(
            [[size * 2 ** (octave / 3) for octave in range(3)] for size in (32, 64, 128, 256, 512)],
            [8, 16, 32, 64, 128],
        ),
        box2box_transform=_transform(1.0, 1.0),
        anchor_matcher=_matcher([0.4, 0.5], [0, -1, 1], True),
        num_classes=80,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        **BGR,
        input_format="BGR",
    )


def fcos() -> Any:
    """Return an FCOS with ResNet-50 and FPN, whose coarsest levels follow from p5."""
    model = retinanet()
    model[TARGET] = f"{MODELING}.FCOS"
    for name in ("anchor_generator", "box2box_transform", "anchor_matcher", "input_format"):
        del model[name]
    model.backbone.top_block.in_feature = "p5"
    model.backbone.top_block.in_channels = 256
    model.test_score_thresh, model.test_nms_thresh = 0.2, 0.6
    model.head[TARGET] = f"{MODELING}.meta_arch.fcos.FCOSHead"
    del model.head.num_anchors
    model.head.norm = "GN"
    return model


def mask_rcnn_vitdet() -> Any:
    """Return the ViTDet with ViT-B."""
    model = mask_rcnn_fpn()
    model.update(RGB)
    model.input_format = "RGB"
    model.backbone = L(f"{MODELING}.SimpleFeaturePyramid")(
        net=L(f"{MODELING}.ViT")(
            img_size=1024,
            patch_size=16,
            embed_dim=768,
            depth=12,
            num_heads=12,
            drop_path_rate=0.1,
            window_size=14,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer={PARTIAL: {NAME: "torch.nn.LayerNorm"}, "eps": 1e-6},
            window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],
            residual_block_indexes=[],
            use_rel_pos=True,
            out_feature="last_feat",
        ),
        in_feature="${.net.out_feature}",
        out_channels=256,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        top_block=L(f"{MODELING}.backbone.fpn.LastLevelMaxPool")(),
        norm="LN",
        square_pad=1024,
    )
    model.proposal_generator.head.conv_dims = [-1, -1]
    model.roi_heads.box_head.conv_dims, model.roi_heads.box_head.fc_dims = [256] * 4, [1024]
    model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = "LN"
    return model


MODELS: dict[str, Callable[[], Any]] = {
    f"common/models/{build.__name__}.py": build
    for build in (
        cascade_rcnn,
        fcos,
        keypoint_rcnn_fpn,
        mask_rcnn_c4,
        mask_rcnn_fpn,
        mask_rcnn_vitdet,
        panoptic_fpn,
        retinanet,
    )
}


def lazy_config(name: str) -> Any:
    """Return the lazy configuration with the key ``model`` of a name in ``MODELS``."""
    return node({"model": MODELS[name]()})
