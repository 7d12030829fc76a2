"""RetinaNet: a one-stage detector with the focal loss (Lin et al. 2017, arXiv:1708.02002).

Shapes: N images, L levels, A anchors per cell, K classes, D detections of an image.
"""

import math
from collections.abc import Sequence
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec, get_norm, nms_per_class
from detexport.layers.conv import init_normal, shapes_of
from detexport.layers.levels import LevelsConv2d, LevelsReLU, levels_norm
from detexport.modeling.anchor_generator import build_anchor_generator, by_anchor, tensor_anchors
from detexport.modeling.backbone import backbone_segments, build_backbone, padding_of
from detexport.modeling.box_regression import (
    Box2BoxTransform,
    anchor_loss_sum,
    apply_deltas,
    box_loss_type,
    decoding_weights,
)
from detexport.modeling.graph_segment import (
    DETECTIONS,
    DenseHead,
    Kind,
    Segment,
    dense_maps,
    maps,
    own_methods,
)
from detexport.modeling.matcher import Matcher, match_anchors, matched_classes
from detexport.modeling.meta_arch.dense_detector import DenseDetector
from detexport.modeling.meta_arch.ground_truth import gt_instances_of
from detexport.modeling.meta_arch.image_model import image_options, preprocess_segment
from detexport.modeling.registries import META_ARCH_REGISTRY
from detexport.structures import Boxes, Instances


class RetinaNetHead(nn.Module):
    """Two convolutional subnets that all levels share: one for classes, one for boxes.

    With batch normalization, whose statistics are separate for each level, it is a ``LevelsRetinaNetHead``.

    Args:
        input_shape: shapes of the levels, which have the same number of channels.
        num_classes: K.
        num_anchors: anchors per cell.
        conv_dims: channels of the convolutions of each subnet.
        norm: name of the normalization; all levels share its parameters and statistics.
        prior_prob: probability of every class at the start of training.
    """

    def __new__(cls, *args: Any, norm: Any = "", **options: Any) -> Any:
        """Return a head, by its normalization."""
        by_level = cls is RetinaNetHead and norm in BY_LEVEL
        return super().__new__(LevelsRetinaNetHead if by_level else cls)

    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: Sequence[int],
        norm: Any = "",
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        channels = shared_channels(input_shape)
        self.cls_subnet = _subnet(channels, conv_dims, norm)
        self.bbox_subnet = _subnet(channels, conv_dims, norm)
        width = conv_dims[-1] if conv_dims else channels
        self.cls_score = nn.Conv2d(width, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(width, num_anchors * 4, 3, padding=1)
        init_normal(self.cls_score, std=0.01, bias=-math.log((1 - prior_prob) / prior_prob))
        init_normal(self.bbox_pred, std=0.01)

    def forward(self, features: List[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """Return logits (N, A * K, H, W) and box deltas (N, A * 4, H, W) of each level (N, C, H, W)."""
        logits: List[Tensor] = []
        deltas: List[Tensor] = []
        for feature in features:
            logits.append(self.cls_score(self.cls_subnet(feature)))
            deltas.append(self.bbox_pred(self.bbox_subnet(feature)))
        return logits, deltas


BY_LEVEL = ("BN", "SyncBN")
"""Normalizations with statistics of each level."""


class LevelsRetinaNetHead(RetinaNetHead):
    """The head with batch normalization, whose statistics are separate for each level.

    Args:
        input_shape: see ``RetinaNetHead``.
        conv_dims: see ``RetinaNetHead``.
        norm: ``"BN"`` or ``"SyncBN"``.
        **options: see ``RetinaNetHead``.
    """

    def __init__(
        self, *, input_shape: Sequence[ShapeSpec], conv_dims: Sequence[int], norm: Any, **options: Any
    ) -> None:
        channels = shared_channels(input_shape)
        width = ShapeSpec(conv_dims[-1] if conv_dims else channels)
        super().__init__(input_shape=[width], conv_dims=[], norm="", **options)
        self.cls_subnet = levels_subnet(channels, conv_dims, len(input_shape), norm)
        self.bbox_subnet = levels_subnet(channels, conv_dims, len(input_shape), norm)

    def forward(self, features: List[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """Return logits and box deltas of each level, as ``RetinaNetHead.forward`` does."""
        for_classes, for_boxes = features, features
        for layer in self.cls_subnet:
            for_classes = layer(for_classes)
        for layer in self.bbox_subnet:
            for_boxes = layer(for_boxes)
        return [self.cls_score(x) for x in for_classes], [self.bbox_pred(x) for x in for_boxes]


def shared_channels(input_shape: Sequence[ShapeSpec]) -> int:
    """Return the number of channels of the levels of a shared head.

    Raises:
        ConfigError: they have different ones.
    """
    channels = {shape.channels for shape in input_shape}
    if len(channels) != 1:
        raise ConfigError(
            "the levels of a shared head have one number of channels",
            got=sorted(channels),
            expected="one",
            remedy="give levels with equal channels, such as those of an FPN",
        )
    return input_shape[0].channels


def levels_subnet(channels: int, conv_dims: Sequence[int], num_levels: int, norm: str) -> nn.Sequential:
    """Return convolutions, normalizations and ReLUs over all levels, numbered as in detectron2's checkpoints.

    Args:
        channels: channels of every level.
        conv_dims: channels of the convolutions.
        num_levels: number of levels.
        norm: see ``levels_norm``.
    """
    layers: list[nn.Module] = []
    for dim in conv_dims:
        conv = LevelsConv2d(channels, dim, 3, padding=1)
        init_normal(conv, std=0.01)
        normalization = levels_norm(norm, num_levels, dim)
        layers += [layer for layer in (conv, normalization, LevelsReLU()) if layer is not None]
        channels = dim
    return nn.Sequential(*layers)


def _subnet(channels: int, conv_dims: Sequence[int], norm: Any) -> nn.Sequential:
    """Return convolutions, normalizations and ReLUs, numbered as in detectron2's checkpoints."""
    layers: list[nn.Module] = []
    for dim in conv_dims:
        conv = nn.Conv2d(channels, dim, 3, padding=1)
        init_normal(conv, std=0.01)
        layers += [layer for layer in (conv, get_norm(norm, dim), nn.ReLU()) if layer is not None]
        channels = dim
    return nn.Sequential(*layers)


def build_retinanet_head(cfg: CfgNode, input_shape: list[ShapeSpec], num_anchors: int) -> RetinaNetHead:
    """Build the head that ``cfg.MODEL.RETINANET`` configures, for levels of these shapes."""
    node = cfg.MODEL.RETINANET
    head: RetinaNetHead = RetinaNetHead(
        input_shape=input_shape,
        num_classes=node.NUM_CLASSES,
        num_anchors=num_anchors,
        conv_dims=[input_shape[0].channels] * node.NUM_CONVS,
        norm=node.NORM,
        prior_prob=node.PRIOR_PROB,
    )
    return head


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """A backbone, anchors and a dense head.

    Args:
        backbone: image -> feature maps.
        head_in_features: names of the levels.
        head: logits and box deltas of each anchor.
        anchor_generator: computes the anchors of each level.
        box2box_transform: encoding of the box deltas.
        anchor_matcher: labels the anchors in training.
        num_classes: K.
        test_score_thresh: lower bound of the scores, exclusive.
        test_topk_candidates: candidates per level before NMS.
        test_nms_thresh: IoU threshold of NMS.
        max_detections_per_image: detections per image.
        focal_loss_alpha: weight of the foreground; -1 for no weights.
        focal_loss_gamma: exponent that reduces the loss of easy anchors.
        box_reg_loss_type: ``loss_type`` of ``box_loss_sum``.
        smooth_l1_beta: where the smooth L1 loss becomes linear.
        **image_options: see ``ImageModel``.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Any,
        head_in_features: tuple[str, ...],
        head: Any,
        anchor_generator: Any,
        box2box_transform: Box2BoxTransform,
        anchor_matcher: Matcher,
        num_classes: int,
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        **image_options: Any,
    ) -> None:
        super().__init__(**padding_of(backbone), **image_options)
        self.backbone = backbone
        self.in_features: List[str] = list(head_in_features)
        self.head = head
        self.anchor_generator = tensor_anchors(anchor_generator)
        self.box2box_transform = box2box_transform
        self.box_weights: List[float] = decoding_weights(box2box_transform)
        self.anchor_matcher = anchor_matcher
        self.num_classes = num_classes
        self.score_threshold = test_score_thresh
        self.topk_candidates = test_topk_candidates
        self.nms_threshold = test_nms_thresh
        self.max_detections = max_detections_per_image
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        # Moving average of the number of foreground anchors in a batch; it starts at a typical number.
        self.loss_normalizer = 100.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.RETINANET
        images = image_options(cfg)
        backbone = build_backbone(cfg)
        shapes = shapes_of(backbone.output_shape(), node.IN_FEATURES, "MODEL.RETINANET.IN_FEATURES")
        anchors = build_anchor_generator(cfg, shapes)
        return {
            "backbone": backbone,
            "head_in_features": tuple(node.IN_FEATURES),
            "head": build_retinanet_head(cfg, shapes, anchors.num_anchors[0]),
            "anchor_generator": anchors,
            "box2box_transform": Box2BoxTransform(tuple(node.BBOX_REG_WEIGHTS)),
            "anchor_matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True),
            "num_classes": node.NUM_CLASSES,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
            "box_reg_loss_type": box_loss_type(node.BBOX_REG_LOSS_TYPE, "MODEL.RETINANET.BBOX_REG_LOSS_TYPE"),
            "smooth_l1_beta": node.SMOOTH_L1_LOSS_BETA,
            **images,
        }

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return the detections of each image, or in training the losses.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), values 0..255 in the order of
                ``input_format``; ``height`` and ``width`` of the output in px, by default the image's own;
                ``instances`` with ``gt_boxes`` and ``gt_classes`` in training.

        Returns:
            One dict per image: ``instances`` with ``pred_boxes``, ``scores``, ``pred_classes``. In training
            ``loss_cls`` and ``loss_box_reg``.

        Raises:
            InputError: an input does not match the description above.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = gt_instances_of(batched_inputs, self.device, self.num_classes)
        logits, deltas, anchors = self.predict_anchors(self.backbone(images.tensor))
        labels, gt_boxes = self.label_anchors(anchors, targets)
        return self.losses(anchors, logits, labels, deltas, gt_boxes)

    @torch.jit.unused
    def detections_of(self, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the detections of each image by field: see ``find_detections``."""
        logits, deltas, anchors = self.predict_anchors(features)
        return self.find_detections(anchors, logits, deltas)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the detections of each image by field, in px of the image, not clipped to it, as exported.

        Args:
            images: each (C, H, W), values 0..255.
        """
        batch, _ = self.pad_images([self.normalize(image) for image in images], self.size_divisibility)
        logits, deltas, anchors = self.predict_anchors(self.backbone(batch))
        return self.find_detections(anchors, logits, deltas)

    def predict_anchors(
        self,
        features: Dict[str, Tensor],
    ) -> Tuple[List[Tensor], List[Tensor], List[Tensor]]:
        """Return logits (N, HWA, K), box deltas (N, HWA, 4) and anchors (HWA, 4) of each level."""
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        logit_maps, delta_maps = self.head(levels)
        logits = [by_anchor(maps, self.num_classes) for maps in logit_maps]
        deltas = [by_anchor(maps, 4) for maps in delta_maps]
        return logits, deltas, anchors

    def find_detections(
        self,
        anchors: List[Tensor],
        logits: List[Tensor],
        deltas: List[Tensor],
    ) -> List[Dict[str, Tensor]]:
        """Select detections: decode the best anchors and classes of each level, then run NMS per class."""
        results: List[Dict[str, Tensor]] = []
        for image in range(logits[0].shape[0]):
            level_boxes: List[Tensor] = []
            level_scores: List[Tensor] = []
            level_classes: List[Tensor] = []
            for level in range(len(anchors)):
                best, where, classes = top_candidates(
                    logits[level][image].sigmoid(), self.score_threshold, self.topk_candidates
                )
                if not torch.jit.is_scripting() and len(self.box_weights) == 0:
                    decode = self.box2box_transform.apply_deltas
                    level_boxes.append(decode(deltas[level][image][where], anchors[level][where]))
                else:
                    level_boxes.append(
                        apply_deltas(deltas[level][image][where], anchors[level][where], self.box_weights)
                    )
                level_scores.append(best)
                level_classes.append(classes)
            boxes, scores = torch.cat(level_boxes), torch.cat(level_scores)
            classes = torch.cat(level_classes)
            finite = torch.isfinite(boxes).all(dim=1).nonzero()[:, 0]
            boxes, scores, classes = boxes[finite], scores[finite], classes[finite]
            keep = nms_per_class(boxes, scores, classes, self.nms_threshold)
            if self.max_detections >= 0:
                keep = keep[: self.max_detections]
            results.append({"pred_boxes": boxes[keep], "scores": scores[keep], "pred_classes": classes[keep]})
        return results

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the image and the backbone, the head, and the decoding of its outputs."""
        outputs = dense_maps(self.in_features)
        return [
            preprocess_segment(self),
            *backbone_segments(self.backbone),
            Segment("retinanet_head", DenseHead(self.head), maps(*self.in_features), outputs),
            Segment("detections", _DenseDetections(self), outputs, DETECTIONS, Kind.DETECTIONS),
        ]

    @torch.jit.unused
    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Tensor], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return classes (HWA,), K background, -1 ignored, and matched ``gt_boxes`` (HWA, 4) per image."""
        all_anchors = Boxes(torch.cat(anchors))
        labels, boxes = [], []
        for instances in gt_instances:
            matches, label, gt_boxes = match_anchors(all_anchors, instances.gt_boxes, self.anchor_matcher)
            labels.append(matched_classes(instances.gt_classes, matches, label, self.num_classes))
            boxes.append(gt_boxes)
        return labels, boxes

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Tensor],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute ``loss_cls`` over the anchors that are not ignored, ``loss_box_reg`` over the foreground.

        Both are normalized by a moving average of the number of foreground anchors.
        """
        label = torch.stack(gt_labels)
        valid, foreground = label >= 0, (label >= 0) & (label < self.num_classes)
        normalizer = self.update_normalizer(foreground)
        loss_cls = self.class_loss(torch.cat(pred_logits, dim=1)[valid], label[valid])
        loss_box = anchor_loss_sum(
            anchors,
            pred_anchor_deltas,
            gt_boxes,
            foreground,
            self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return {
            "loss_cls": loss_cls / normalizer,
            "loss_box_reg": loss_box / normalizer,
        }


class _DenseDetections(nn.Module):
    """L maps of logits, L of box deltas -> boxes, scores, classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)
        self.anchors: Any = model.anchor_generator

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        levels = len(tensors) // 2
        logits = [by_anchor(one, self.model.num_classes) for one in tensors[:levels]]
        deltas = [by_anchor(one, 4) for one in tensors[levels:]]
        found = self.model.find_detections(self.anchors(tensors[:levels]), logits, deltas)[0]
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]


def top_candidates(scores: Tensor, score_threshold: float, topk: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Select the pairs of an anchor and a class with the highest scores.

    Args:
        scores: (A, K).
        score_threshold: lower bound of the scores, exclusive; not negative.
        topk: upper bound of the number of pairs.

    Returns:
        (R,) scores in descending order, (R,) anchors, (R,) classes.
    """
    found = (scores > score_threshold).nonzero()
    # The padding lets topk return k of fewer than k values; its score -1 removes it again.
    candidates = F.pad(scores[found[:, 0], found[:, 1]], [0, topk], value=-1.0)
    best, indices = candidates.topk(topk)
    real = (best >= 0).nonzero()[:, 0]
    found = found[indices[real]]
    return best[real], found[:, 0], found[:, 1]
