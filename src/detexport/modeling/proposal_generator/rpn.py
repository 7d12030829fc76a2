"""Region proposal network (Ren et al. 2015).

Shapes: N images, L levels, A anchors a cell, R proposals of an image.
"""

from collections.abc import Sequence
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.layers import Conv2d, ShapeSpec, nms_per_class
from detexport.layers.conv import init_normal, shapes_of
from detexport.modeling.anchor_generator import AnchorGrid, build_anchor_generator, by_anchor
from detexport.modeling.box_regression import Box2BoxTransform, anchor_loss_sum, apply_deltas, box_loss_type
from detexport.modeling.matcher import Matcher, match_anchors, subsample_labels
from detexport.modeling.registries import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY
from detexport.modeling.segment import (
    IMAGE_PORT,
    PROPOSALS,
    DenseHead,
    Kind,
    Segment,
    by_name,
    declared_segments,
    dense_maps,
    maps,
    not_cut,
    own_methods,
    size_of,
)
from detexport.structures import Boxes, ImageList, Instances
from detexport.structures.boxes import clip_boxes, nonempty_boxes
from detexport.utils.events import record


def build_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.PROPOSAL_GENERATOR.NAME`` over feature maps of these shapes."""
    return PROPOSAL_GENERATOR_REGISTRY.build(cfg, input_shape)


@RPN_HEAD_REGISTRY.register(name="StandardRPNHead")
class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and box differences for each anchor.

    Args:
        in_channels: channels of every level.
        num_anchors: anchors a cell.
        box_dim: numbers that describe a box.
        conv_dims: channels of the convolutions; -1 keeps the input's.
    """

    @configurable
    def __init__(
        self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: tuple[int, ...] = (-1,)
    ) -> None:
        super().__init__()
        convs: list[Conv2d] = []
        channels = in_channels
        for dim in conv_dims:
            out_channels = channels if dim == -1 else dim
            convs.append(Conv2d(channels, out_channels, 3, padding=1, relu=True))
            channels = out_channels
        if len(convs) == 1:
            self.conv: nn.Module = convs[0]
        else:
            self.conv = nn.Sequential()
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, 1)
        for layer in (*convs, self.objectness_logits, self.anchor_deltas):
            init_normal(layer, std=0.01)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """The arguments that a configuration says."""
        return {
            "in_channels": input_shape[0].channels,
            "num_anchors": build_anchor_generator(cfg, input_shape).num_anchors[0],
            "conv_dims": tuple(cfg.MODEL.RPN.CONV_DIMS),
        }

    def forward(self, features: List[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """One (N, C, H, W) a level -> one (N, A, H, W) of logits, one (N, A * 4, H, W) of differences."""
        logits: List[Tensor] = []
        deltas: List[Tensor] = []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.objectness_logits(hidden))
            deltas.append(self.anchor_deltas(hidden))
        return logits, deltas


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Proposes boxes from feature maps.

    Args:
        in_features: names of the levels.
        head: logits and differences for each anchor.
        anchor_generator: anchors of each level.
        box2box_transform: meaning of the differences.
        matcher: labels of the anchors in training.
        batch_size_per_image: anchors an image to learn from.
        positive_fraction: at most this part of them is foreground.
        pre_nms_topk: proposals a level before suppression, in training and in testing.
        post_nms_topk: proposals an image after suppression, likewise.
        nms_threshold: IoU above which the lower score is dropped, within a level.
        min_box_size: both sides of a proposal are longer, in px.
        boundary_threshold: anchors further outside the image are not learnt from; -1 keeps all.
        box_reg_loss_type: kind of the box loss: see ``box_loss_sum``.
        smooth_l1_beta: where a smooth L1 loss turns linear.
        loss_weights: factors of the objectness and the box loss.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: tuple[str, ...],
        head: Any,
        anchor_generator: AnchorGrid,
        box2box_transform: Box2BoxTransform,
        matcher: Matcher,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_threshold: float,
        min_box_size: float,
        boundary_threshold: int,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        loss_weights: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.in_features: List[str] = list(in_features)
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.box_weights: List[float] = list(box2box_transform.weights)
        self.anchor_matcher = matcher
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk_train, self.pre_nms_topk_test = pre_nms_topk
        self.post_nms_topk_train, self.post_nms_topk_test = post_nms_topk
        self.nms_threshold = nms_threshold
        self.min_box_size = float(min_box_size)
        self.boundary_threshold = boundary_threshold
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        self.loss_weights = loss_weights

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """The arguments that a configuration says."""
        node = cfg.MODEL.RPN
        shapes = shapes_of(input_shape, node.IN_FEATURES, "MODEL.RPN.IN_FEATURES")
        return {
            "in_features": tuple(node.IN_FEATURES),
            "head": RPN_HEAD_REGISTRY.get(node.HEAD_NAME)(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "box2box_transform": Box2BoxTransform(tuple(node.BBOX_REG_WEIGHTS)),
            "matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True),
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "pre_nms_topk": (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST),
            "nms_threshold": node.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "boundary_threshold": node.BOUNDARY_THRESH,
            "box_reg_loss_type": box_loss_type(node.BBOX_REG_LOSS_TYPE, "MODEL.RPN.BBOX_REG_LOSS_TYPE"),
            "smooth_l1_beta": node.SMOOTH_L1_BETA,
            "loss_weights": (node.LOSS_WEIGHT, node.LOSS_WEIGHT * node.BBOX_REG_LOSS_WEIGHT),
        }

    @torch.jit.unused
    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes; in training also the losses.

        Args:
            images: the padded batch.
            features: feature maps by name.
            gt_instances: ``gt_boxes`` of each image, in training.

        Returns:
            one ``Instances`` an image with ``proposal_boxes`` and ``objectness_logits``, and the losses.
        """
        logits, deltas, anchors = self.predict_anchors(features)
        losses: dict[str, Tensor] = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("training needs gt_instances for each image")
            labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances, images.image_sizes)
            losses = self.losses(anchors, logits, labels, deltas, gt_boxes)
        with torch.no_grad():
            found = self.find_proposals(anchors, logits, deltas, images.image_sizes)
        proposals = [
            Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=scores)
            for size, (boxes, scores) in zip(images.image_sizes, found, strict=True)
        ]
        return proposals, losses

    def propose(
        self,
        features: Dict[str, Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Tuple[Tensor, Tensor]]:
        """Boxes (R, 4) XYXY in px and their logits (R,), descending, for each image."""
        logits, deltas, anchors = self.predict_anchors(features)
        return self.find_proposals(anchors, logits, deltas, image_sizes)

    def predict_anchors(
        self,
        features: Dict[str, Tensor],
    ) -> Tuple[List[Tensor], List[Tensor], List[Tensor]]:
        """Logits (N, HWA), differences (N, HWA, 4) and anchors (HWA, 4) of each level."""
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        logit_maps, delta_maps = self.rpn_head(levels)
        logits = [by_anchor(maps, 1).flatten(1) for maps in logit_maps]
        deltas = [by_anchor(maps, 4) for maps in delta_maps]
        return logits, deltas, anchors

    def find_proposals(
        self,
        anchors: List[Tensor],
        logits: List[Tensor],
        deltas: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Tuple[Tensor, Tensor]]:
        """The best anchors of each level, decoded, clipped and suppressed within their level."""
        return select_proposals(
            anchors,
            logits,
            deltas,
            image_sizes,
            self.box_weights,
            pre_nms_topk=self.pre_nms_topk_train if self.training else self.pre_nms_topk_test,
            post_nms_topk=self.post_nms_topk_train if self.training else self.post_nms_topk_test,
            nms_threshold=self.nms_threshold,
            min_box_size=self.min_box_size,
        )

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self,
        anchors: list[Tensor],
        gt_instances: list[Instances],
        image_sizes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each image (HWA,) labels (1, 0, -1 not learnt from) and (HWA, 4) ground truth boxes."""
        all_anchors = Boxes(torch.cat(anchors))
        labels, boxes = [], []
        for instances, size in zip(gt_instances, image_sizes, strict=True):
            _, label, gt_boxes = match_anchors(all_anchors, instances.gt_boxes, self.anchor_matcher)
            if self.boundary_threshold >= 0:
                label[~all_anchors.inside_box(size, self.boundary_threshold)] = -1
            positive, negative = subsample_labels(
                label, self.batch_size_per_image, self.positive_fraction, background=0
            )
            label.fill_(-1)
            label[positive] = 1
            label[negative] = 0
            labels.append(label)
            boxes.append(gt_boxes)
        return labels, boxes

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Tensor],
        logits: list[Tensor],
        labels: list[Tensor],
        deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_loc``, each over the anchors that were drawn."""
        label = torch.stack(labels)
        positive, drawn = label == 1, label >= 0
        record("rpn/num_pos_anchors", lambda: positive.sum() / len(labels))
        record("rpn/num_neg_anchors", lambda: (label == 0).sum() / len(labels))
        loc = anchor_loss_sum(
            anchors,
            deltas,
            gt_boxes,
            positive,
            self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        objectness = F.binary_cross_entropy_with_logits(
            torch.cat(logits, dim=1)[drawn], label[drawn].float(), reduction="sum"
        )
        normalizer = self.batch_size_per_image * len(labels)
        return {
            "loss_rpn_cls": objectness * (self.loss_weights[0] / normalizer),
            "loss_rpn_loc": loc * (self.loss_weights[1] / normalizer),
        }

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the head, and the selection of the proposals."""
        outputs = dense_maps(self.in_features)
        return [
            Segment("rpn_head", DenseHead(self.rpn_head), maps(*self.in_features), outputs),
            Segment("proposals", _Proposals(self), (*outputs, IMAGE_PORT), PROPOSALS, Kind.PROPOSALS),
        ]


def select_proposals(
    anchors: List[Tensor],
    logits: List[Tensor],
    deltas: List[Tensor],
    image_sizes: List[Tuple[int, int]],
    box_weights: List[float],
    pre_nms_topk: int,
    post_nms_topk: int,
    nms_threshold: float,
    min_box_size: float,
) -> List[Tuple[Tensor, Tensor]]:
    """The best anchors of each level, decoded, clipped and suppressed within their level.

    Args:
        anchors: (HWA, 4) a level, XYXY in px.
        logits: (N, HWA) a level.
        deltas: (N, HWA, 4) a level.
        image_sizes: height and width of each image in px.
        box_weights: what the four differences were multiplied by.
        pre_nms_topk: proposals a level before suppression.
        post_nms_topk: proposals an image after suppression.
        nms_threshold: IoU above which the lower score is dropped.
        min_box_size: both sides of a proposal are longer, in px.

    Returns:
        (R, 4) boxes, XYXY in px, and (R,) logits, descending, of each image.
    """
    # Lets topk take k of fewer than k; the padding is dropped by its score.
    pad_score = -1e9
    results: List[Tuple[Tensor, Tensor]] = []
    for image in range(len(image_sizes)):
        level_boxes: List[Tensor] = []
        level_scores: List[Tensor] = []
        level_ids: List[Tensor] = []
        for level in range(len(anchors)):
            padded = F.pad(logits[level][image], [0, pre_nms_topk], value=pad_score)
            scores, indices = padded.topk(pre_nms_topk)
            real = (scores > pad_score).nonzero()[:, 0]
            scores, indices = scores[real], indices[real]
            boxes = apply_deltas(deltas[level][image][indices], anchors[level][indices], box_weights)
            level_boxes.append(boxes)
            level_scores.append(scores)
            level_ids.append(torch.full_like(indices, level))
        boxes, scores, ids = torch.cat(level_boxes), torch.cat(level_scores), torch.cat(level_ids)
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        boxes = clip_boxes(boxes, image_sizes[image])
        valid = (finite & nonempty_boxes(boxes, min_box_size)).nonzero()[:, 0]
        boxes, scores, ids = boxes[valid], scores[valid], ids[valid]
        keep = nms_per_class(boxes, scores, ids, nms_threshold)[:post_nms_topk]
        results.append((boxes[keep], scores[keep]))
    return results


class _Proposals(nn.Module):
    """L maps of logits, L of deltas, image -> boxes and their logits."""

    def __init__(self, rpn: Any) -> None:
        super().__init__()
        self.rpn = own_methods(rpn)
        self.anchors: Any = rpn.anchor_generator

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        levels = len(tensors) // 2
        logit_maps, image = tensors[:levels], tensors[-1]
        logits = [by_anchor(one, 1).flatten(1) for one in logit_maps]
        deltas = [by_anchor(one, 4) for one in tensors[levels : 2 * levels]]
        boxes, scores = self.rpn.find_proposals(self.anchors(logit_maps), logits, deltas, [size_of(image)])[0]
        return [boxes, scores]


class _WholeProposalGenerator(nn.Module):
    """levels, image -> boxes and their logits, by a proposal generator of any kind."""

    def __init__(self, generator: Any, levels: Sequence[str]) -> None:
        super().__init__()
        self.generator: Any = generator
        self.levels: List[str] = list(levels)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        boxes, scores = self.generator.propose(by_name(tensors, self.levels), [size_of(tensors[-1])])[0]
        return [boxes, scores]


def proposal_segments(generator: Any, levels: Sequence[str]) -> list[Segment]:
    """Return what a proposal generator declares, or all of it as one segment.

    Args:
        generator: feature maps -> proposals.
        levels: names of the feature maps of the backbone.
    """
    levels = getattr(generator, "in_features", levels)
    module = _WholeProposalGenerator(generator, levels)
    note = not_cut("the proposal generator", generator)
    whole = Segment("proposals", module, (*maps(*levels), IMAGE_PORT), PROPOSALS, Kind.PROPOSALS, note)
    return declared_segments(generator) or [whole]
