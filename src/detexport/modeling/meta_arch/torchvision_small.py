"""Small variants of torchvision's detection models, one per family; each trains in minutes on a laptop.

Layers, heads and losses are torchvision's, with fewer layers and channels than its published models.
``MODEL.TORCHVISION.NAME`` selects one by its dotted path, as it selects a user's function.

The argument ``num_classes`` counts the background, as in torchvision.
"""

from collections import OrderedDict
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models import detection, mobilenet_v3_large
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

CHANNELS = 32
"""Channels of every level of a pyramid."""

STAGES = (16, 16, 24, 32, 48)
"""Channels of the stem and of the four stages after it; each halves the resolution."""

STRIDES = (8, 16, 32, 64, 128)
"""Strides of the levels of a one-stage detector, in px."""

OBJECT_SIDES = (16, 24, 40, 64, 96)
"""Square roots of the anchors' areas in px, one per level."""


def body() -> nn.Sequential:
    """Build a residual network with one block per stage."""
    stem = Conv2dNormActivation(3, STAGES[0], stride=2)
    stages = [
        BasicBlock(
            inputs,
            outputs,
            stride=2,
            downsample=Conv2dNormActivation(inputs, outputs, 1, stride=2, activation_layer=None),
        )
        for inputs, outputs in pairwise(STAGES)
    ]
    names = ["stem", "layer1", "layer2", "layer3", "layer4"]
    return nn.Sequential(OrderedDict(zip(names, [stem, *stages], strict=True)))


def pyramid(first_stage: int = 1, extra: nn.Module | None = None) -> BackboneWithFPN:
    """Build a feature pyramid over the stages from ``first_stage`` on."""
    stages = range(first_stage, len(STAGES))
    layers = {f"layer{stage}": str(index) for index, stage in enumerate(stages)}
    return BackboneWithFPN(body(), layers, [STAGES[stage] for stage in stages], CHANNELS, extra)


def two_stages(num_classes: int) -> dict[str, Any]:
    """Return the options that Faster, Mask and Keypoint R-CNN share."""
    return {
        "rpn_anchor_generator": AnchorGenerator(
            tuple((side,) for side in OBJECT_SIDES), ((0.5, 1.0, 2.0),) * len(OBJECT_SIDES)
        ),
        "rpn_pre_nms_top_n_train": 300,
        "rpn_post_nms_top_n_train": 200,
        "rpn_pre_nms_top_n_test": 300,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 64,
        "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=5, sampling_ratio=2),
        "box_head": TwoMLPHead(CHANNELS * 5 * 5, 64),
        "box_predictor": FastRCNNPredictor(64, num_classes),
        "box_batch_size_per_image": 64,
        "box_detections_per_img": 20,
    }


def faster_rcnn(*, num_classes: int) -> detection.FasterRCNN:
    """Build a Faster R-CNN with a feature pyramid."""
    return detection.FasterRCNN(pyramid(), **two_stages(num_classes))


def mask_rcnn(*, num_classes: int) -> detection.MaskRCNN:
    """Build a Mask R-CNN with masks of 28 x 28."""
    return detection.MaskRCNN(
        pyramid(),
        **two_stages(num_classes),
        mask_head=MaskRCNNHeads(CHANNELS, (CHANNELS, CHANNELS), 1),
        mask_predictor=MaskRCNNPredictor(CHANNELS, CHANNELS, num_classes),
    )


def keypoint_rcnn(*, num_classes: int, num_keypoints: int = 5) -> detection.KeypointRCNN:
    """Build a Keypoint R-CNN."""
    return detection.KeypointRCNN(
        pyramid(),
        **two_stages(num_classes),
        keypoint_head=KeypointRCNNHeads(CHANNELS, (CHANNELS, CHANNELS)),
        keypoint_predictor=KeypointRCNNPredictor(CHANNELS, num_keypoints),
    )


def retinanet(*, num_classes: int) -> detection.RetinaNet:
    """Build a RetinaNet: strides 8 to 128, nine anchors per cell, GroupNorm in the head (as in v2)."""
    # Twice the stride, and 1/3 and 2/3 octave above, so that adjacent levels leave no gap.
    sides = tuple(tuple(round(2 * stride * 2 ** (third / 3)) for third in range(3)) for stride in STRIDES)
    anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides))
    return detection.RetinaNet(
        pyramid(2, LastLevelP6P7(CHANNELS, CHANNELS)),
        num_classes,
        anchor_generator=anchors,
        head=RetinaNetHead(CHANNELS, 9, num_classes, norm_layer=partial(nn.GroupNorm, 8)),
        detections_per_img=20,
    )


def fcos(*, num_classes: int) -> detection.FCOS:
    """Build an FCOS: strides 8 to 128, two convolutions before each output instead of four."""
    head = FCOSHead(CHANNELS, 1, num_classes, num_convs=2)
    for norm in head.modules():
        if isinstance(norm, nn.GroupNorm):
            # With torchvision's 32 groups each is one channel, of which a map of one cell has one value.
            norm.num_groups = 8
    backbone = pyramid(2, LastLevelP6P7(CHANNELS, CHANNELS))
    return detection.FCOS(backbone, num_classes, head=head, detections_per_img=20)


class Maps(nn.Module):
    """SSD's backbone: the feature maps of the strides 8, 16 and 32, and two more."""

    def __init__(self) -> None:
        super().__init__()
        layers = body()
        self.first = nn.Sequential(*layers[:3])
        self.others = nn.ModuleList(
            [
                layers[3],
                layers[4],
                Conv2dNormActivation(STAGES[4], CHANNELS, stride=2),
                Conv2dNormActivation(CHANNELS, CHANNELS, stride=2),
            ]
        )
        self.out_channels = [*STAGES[2:], CHANNELS, CHANNELS]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return one feature map per level, from fine to coarse, for images (N, 3, H, W)."""
        x = self.first(x)
        maps = OrderedDict([("0", x)])
        for index, layer in enumerate(self.others):
            x = layer(x)
            maps[str(index + 1)] = x
        return maps


def ssd(*, num_classes: int) -> detection.ssd.SSD:
    """Build an SSD, which resizes images to 160 x 160."""
    boxes = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2], [2]], min_ratio=0.12, max_ratio=0.7)
    return detection.ssd.SSD(
        Maps(), boxes, (160, 160), num_classes, detections_per_img=20, topk_candidates=100
    )


def ssdlite(*, num_classes: int) -> detection.ssd.SSD:
    """Build an SSDlite, which resizes images to 160 x 160, over a MobileNetV3 of quarter width."""
    norm = partial(nn.BatchNorm2d, eps=0.001)
    features = mobilenet_v3_large(width_mult=0.25, reduced_tail=True, norm_layer=norm).features
    # The last block that halves the resolution: its widest layer is SSDlite's first map.
    last = max(index for index, block in enumerate(features) if getattr(block, "_is_cn", False))
    backbone = SSDLiteFeatureExtractorMobileNet(features, last, norm, width_mult=0.25)
    size = (160, 160)
    channels = detection._utils.retrieve_out_channels(backbone, size)
    boxes = DefaultBoxGenerator([[2, 3]] * len(channels), min_ratio=0.15, max_ratio=0.9)
    head = SSDLiteHead(channels, boxes.num_anchors_per_location(), num_classes, norm)
    return detection.ssd.SSD(
        backbone, boxes, size, num_classes, head=head, detections_per_img=20, topk_candidates=100
    )
