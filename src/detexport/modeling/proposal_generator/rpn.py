"""Region proposal network (Ren et al. 2015).

Shapes: N images, L levels, A anchors per cell, R proposals of an image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec, nms_per_class
from detexport.layers.alias_of import alias_of
from detexport.layers.conv import Conv2d, init_normal, shapes_of
from detexport.modeling.anchor_generator import build_anchor_generator, by_anchor, tensor_anchors
from detexport.modeling.box_regression import (
    Box2BoxTransform,
    anchor_loss_sum,
    apply_deltas,
    box_loss_type,
    decoding_weights,
    loss_weights_of,
    weights_of,
)
from detexport.modeling.graph_segment import (
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
from detexport.modeling.matcher import Matcher, match_anchors
from detexport.modeling.registries import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY
from detexport.modeling.sampling import subsample_labels
from detexport.structures import Boxes, ImageList, Instances
from detexport.structures.boxes import clip_boxes, nonempty_boxes
from detexport.utils.events import record


def build_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.PROPOSAL_GENERATOR.NAME`` for feature maps of these shapes."""
    return PROPOSAL_GENERATOR_REGISTRY.build(cfg, input_shape)


def build_rpn_head(cfg: CfgNode, input_shape: list[ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.RPN.HEAD_NAME`` for feature maps of these shapes."""
    return RPN_HEAD_REGISTRY.build(cfg, input_shape)


@RPN_HEAD_REGISTRY.register(name="StandardRPNHead")
class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness logits and box deltas of each anchor.

    Args:
        in_channels: channels of every level.
        num_anchors: anchors per cell.
        box_dim: values of a box's deltas.
        conv_dims: channels of the convolutions; -1 for as many as the input has.
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
        """Return the constructor arguments for a configuration."""
        anchors = build_anchor_generator(cfg, input_shape)
        return {
            "in_channels": input_shape[0].channels,
            "num_anchors": anchors.num_anchors[0],
            "box_dim": getattr(anchors, "box_dim", 4),
            "conv_dims": tuple(cfg.MODEL.RPN.CONV_DIMS),
        }

    def forward(self, features: List[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """Return logits (N, A, H, W) and box deltas (N, A * 4, H, W) of each level (N, C, H, W)."""
        logits: List[Tensor] = []
        deltas: List[Tensor] = []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.objectness_logits(hidden))
            deltas.append(self.anchor_deltas(hidden))
        return logits, deltas


StandardRPNHead = RPNHead
"""The name in detectron2 and in configurations."""


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Region proposal network over feature maps.

    Args:
        in_features: names of the levels.
        head: logits and box deltas of each anchor.
        anchor_generator: computes the anchors of each level.
        box2box_transform: encoding of the box deltas.
        anchor_matcher: labels the anchors in training.
        batch_size_per_image: anchors sampled per image for the losses.
        positive_fraction: upper bound of the fraction of foreground anchors among them.
        pre_nms_topk: proposals per level before NMS, in training and in testing.
        post_nms_topk: proposals per image after NMS, in training and in testing.
        nms_thresh: IoU threshold of NMS, which runs per level.
        min_box_size: lower bound of both sides of a proposal in px, exclusive.
        anchor_boundary_thresh: px by which an anchor may reach outside the image; others are ignored in
            training. -1 keeps all.
        loss_weight: factor of both losses, or one each for ``loss_rpn_cls`` and ``loss_rpn_loc``.
        box_reg_loss_type: ``loss_type`` of ``box_loss_sum``.
        smooth_l1_beta: where the smooth L1 loss becomes linear.
    """

    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        box_type: Any
        transform_type: Any
    box_type = Boxes
    transform_type = Box2BoxTransform
    box_dim = 4
    nms_thresh = alias_of("nms_threshold")
    anchor_boundary_thresh = alias_of("boundary_threshold")

    @configurable
    def __init__(
        self,
        *,
        in_features: tuple[str, ...],
        head: Any,
        anchor_generator: Any,
        box2box_transform: Box2BoxTransform,
        anchor_matcher: Matcher,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        super().__init__()
        if getattr(anchor_generator, "box_dim", self.box_dim) != self.box_dim:
            raise ConfigError(
                f"the anchors do not fit {type(self).__name__}",
                got=f"MODEL.ANCHOR_GENERATOR.NAME: {type(anchor_generator).__name__}",
                expected="rotated anchors" if self.box_dim == 5 else "anchors that are not rotated",
                remedy="set MODEL.PROPOSAL_GENERATOR.NAME to RRPN for RotatedAnchorGenerator, else to RPN",
            )
        self.in_features: List[str] = list(in_features)
        self.rpn_head = head
        self.anchor_generator = tensor_anchors(anchor_generator)
        self.box2box_transform = box2box_transform
        self.box_weights: List[float] = decoding_weights(box2box_transform, self.transform_type)
        self.anchor_matcher = anchor_matcher
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk_train, self.pre_nms_topk_test = pre_nms_topk
        self.post_nms_topk_train, self.post_nms_topk_test = post_nms_topk
        self.nms_threshold = nms_thresh
        self.min_box_size = float(min_box_size)
        self.boundary_threshold = int(anchor_boundary_thresh)
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        self.loss_weights = loss_weights_of(loss_weight, ("loss_rpn_cls", "loss_rpn_loc"))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.RPN
        shapes = shapes_of(input_shape, node.IN_FEATURES, "MODEL.RPN.IN_FEATURES")
        return {
            "in_features": tuple(node.IN_FEATURES),
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "box2box_transform": cls.transform_type(
                weights_of(node.BBOX_REG_WEIGHTS, "MODEL.RPN.BBOX_REG_WEIGHTS", cls.box_dim)
            ),
            "anchor_matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True),
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "pre_nms_topk": (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST),
            "nms_thresh": node.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": node.BOUNDARY_THRESH,
            "box_reg_loss_type": box_loss_type(node.BBOX_REG_LOSS_TYPE, "MODEL.RPN.BBOX_REG_LOSS_TYPE"),
            "smooth_l1_beta": node.SMOOTH_L1_BETA,
            "loss_weight": {
                "loss_rpn_cls": node.LOSS_WEIGHT,
                "loss_rpn_loc": node.LOSS_WEIGHT * node.BBOX_REG_LOSS_WEIGHT,
            },
        }

    @torch.jit.unused
    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return the proposals, and in training the losses.

        Args:
            images: the padded batch.
            features: feature maps by name.
            gt_instances: in training, ``gt_boxes`` of each image.

        Returns:
            ``Instances`` with ``proposal_boxes`` and ``objectness_logits`` per image, and the losses by name.
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
            Instances(size, proposal_boxes=self.box_type(boxes), objectness_logits=scores)
            for size, (boxes, scores) in zip(images.image_sizes, found, strict=True)
        ]
        return proposals, losses

    def propose(
        self,
        features: Dict[str, Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Tuple[Tensor, Tensor]]:
        """Return boxes (R, 4) XYXY in px and their logits (R,), descending, of each image."""
        logits, deltas, anchors = self.predict_anchors(features)
        return self.find_proposals(anchors, logits, deltas, image_sizes)

    def predict_anchors(
        self,
        features: Dict[str, Tensor],
    ) -> Tuple[List[Tensor], List[Tensor], List[Tensor]]:
        """Return logits (N, HWA), box deltas (N, HWA, 4) and anchors (HWA, 4) of each level."""
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
        """Select the proposals of each image by ``select_proposals`` with the options of this module."""
        if not torch.jit.is_scripting() and len(self.box_weights) == 0:
            deltas = self.decoded(anchors, deltas)
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
    def decoded(self, anchors: list[Tensor], deltas: list[Tensor]) -> list[Tensor]:
        """Return the boxes (N, HWA, 4) of each level, decoded by the module's transform."""
        decode = self.box2box_transform.apply_deltas
        return [
            torch.stack([decode(of_image, level) for of_image in of_level.unbind()])
            for of_level, level in zip(deltas, anchors, strict=True)
        ]

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self,
        anchors: list[Tensor],
        gt_instances: list[Instances],
        image_sizes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels (HWA,) (1, 0, -1 ignored) and matched ``gt_boxes`` (HWA, 4) for each image."""
        all_anchors = self.box_type(torch.cat(anchors))
        labels, boxes = [], []
        for instances, size in zip(gt_instances, image_sizes, strict=True):
            _, label, gt_boxes = match_anchors(all_anchors, instances.gt_boxes, self.anchor_matcher)
            if self.boundary_threshold >= 0:
                label[~all_anchors.inside_box(size, self.boundary_threshold)] = -1
            positive, negative = subsample_labels(
                label, self.batch_size_per_image, self.positive_fraction, bg_label=0
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
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute ``loss_rpn_cls`` and ``loss_rpn_loc`` over the sampled anchors."""
        label = torch.stack(gt_labels)
        positive, drawn = label == 1, label >= 0
        record("rpn/num_pos_anchors", lambda: positive.sum() / len(gt_labels))
        record("rpn/num_neg_anchors", lambda: (label == 0).sum() / len(gt_labels))
        loc = anchor_loss_sum(
            anchors,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        objectness = F.binary_cross_entropy_with_logits(
            torch.cat(pred_objectness_logits, dim=1)[drawn], label[drawn].float(), reduction="sum"
        )
        normalizer = self.batch_size_per_image * len(gt_labels)
        return {
            "loss_rpn_cls": objectness * (self.loss_weights[0] / normalizer),
            "loss_rpn_loc": loc * (self.loss_weights[1] / normalizer),
        }

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return two segments: the head and the selection of proposals."""
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
    """Select proposals: decode and clip the best anchors of each level, then run NMS per level.

    Args:
        anchors: (HWA, 4) per level, XYXY in px.
        logits: (N, HWA) per level.
        deltas: (N, HWA, 4) per level.
        image_sizes: height and width of each image in px.
        box_weights: factors of dx, dy, dw and dh in ``deltas``; none if ``deltas`` are decoded boxes.
        pre_nms_topk: proposals per level before NMS.
        post_nms_topk: proposals per image after NMS.
        nms_threshold: IoU threshold of NMS.
        min_box_size: lower bound of both sides of a proposal in px, exclusive.

    Returns:
        (R, 4) boxes, XYXY in px, and (R,) logits, descending, of each image.
    """
    # The padding lets topk return k of fewer than k values; its score removes it again.
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
            if not torch.jit.is_scripting() and len(box_weights) == 0:
                boxes = deltas[level][image][indices]
            else:
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
    """L maps of logits, L of box deltas, image -> proposals and their logits."""

    def __init__(self, rpn: Any) -> None:
        super().__init__()
        self.rpn = own_methods(rpn)
        self.anchors: Any = rpn.anchor_generator
        self.box_dim: int = rpn.box_dim

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        levels = len(tensors) // 2
        logit_maps, image = tensors[:levels], tensors[-1]
        logits = [by_anchor(one, 1).flatten(1) for one in logit_maps]
        deltas = [by_anchor(one, self.box_dim) for one in tensors[levels : 2 * levels]]
        boxes, scores = self.rpn.find_proposals(self.anchors(logit_maps), logits, deltas, [size_of(image)])[0]
        return [boxes, scores]


class _WholeProposalGenerator(nn.Module):
    """levels, image -> proposals and their logits, by any proposal generator."""

    def __init__(self, generator: Any, levels: Sequence[str]) -> None:
        super().__init__()
        self.generator: Any = generator
        self.levels: List[str] = list(levels)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        boxes, scores = self.generator.propose(by_name(tensors, self.levels), [size_of(tensors[-1])])[0]
        return [boxes, scores]


def proposal_segments(generator: Any, levels: Sequence[str]) -> list[Segment]:
    """Return the segments that a proposal generator declares, or one segment for all of it.

    Args:
        generator: feature maps -> proposals.
        levels: names of the backbone's feature maps.
    """
    levels = getattr(generator, "in_features", levels)
    module = _WholeProposalGenerator(generator, levels)
    note = not_cut("the proposal generator", generator)
    whole = Segment("proposals", module, (*maps(*levels), IMAGE_PORT), PROPOSALS, Kind.PROPOSALS, note)
    return declared_segments(generator) or [whole]
