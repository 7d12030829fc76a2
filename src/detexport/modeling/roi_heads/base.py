"""What ROI heads of every kind share: which proposals to learn from, and detections as ``Instances``.

Shapes: R proposals, D detections of an image, K classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Dict, List

import torch
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.layers import ShapeSpec
from detexport.layers.conv import shapes_of
from detexport.modeling.matcher import Matcher, matched_classes, subsample_labels
from detexport.modeling.poolers import ROIPooler
from detexport.modeling.segment import (
    IMAGE_PORT,
    PROPOSAL_BOXES,
    Kind,
    Segment,
    by_name,
    declared_segments,
    maps,
    not_cut,
    raw_outputs,
    size_of,
)
from detexport.structures import Boxes, ImageList, Instances, pairwise_iou
from detexport.utils.events import record


def split_by_image(x: Tensor, boxes: List[Tensor]) -> List[Tensor]:
    """Rows of ``x`` by image, as many as each of ``boxes`` has; a single image's stay whole."""
    if len(boxes) == 1:
        return [x]
    parts: List[Tensor] = []
    start = 0
    for box in boxes:
        parts.append(x[start : start + box.shape[0]])
        start += box.shape[0]
    return parts


class ROIHeads(nn.Module):
    """Proposals -> detections; a subclass adds the heads, ``detect`` and ``losses``.

    With a mask head ``mask_head``, it also gives ``mask_features(levels, boxes)``, what that head looks at.

    Args:
        in_features: names of the levels.
        num_classes: K, without the background.
        matcher: labels of the proposals in training.
        batch_size_per_image: proposals an image to learn from.
        positive_fraction: at most this part of them is foreground.
        proposal_append_gt: learn from the ground truth's boxes too.
    """

    detect: Any
    losses: Any
    if TYPE_CHECKING:  # a class annotation that exists would be TorchScript's to obey
        mask_head: Any
        mask_features: Any

    def __init__(
        self,
        *,
        in_features: tuple[str, ...],
        num_classes: int,
        matcher: Matcher,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_append_gt: bool,
    ) -> None:
        super().__init__()
        self.in_features: List[str] = list(in_features)
        self.num_classes = num_classes
        self.proposal_matcher = matcher
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_append_gt = proposal_append_gt
        self.mask_on = False
        self.keypoint_on = False

    def add_masks(
        self,
        levels: List[Tensor],
        detections: List[Dict[str, Tensor]],
    ) -> List[Dict[str, Tensor]]:
        """``pred_masks`` (D, S, S), a probability a cell of a grid over each box."""
        if self.mask_head is not None:
            boxes = [fields["pred_boxes"] for fields in detections]
            classes = torch.cat([fields["pred_classes"] for fields in detections])
            masks = self.mask_head.masks(self.mask_features(levels, boxes), boxes, classes)
            image_masks = split_by_image(masks, boxes)
            for index in range(len(detections)):
                detections[index]["pred_masks"] = image_masks[index]
        return detections

    @torch.jit.unused
    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detections, or in training the sampled proposals and the losses.

        Args:
            images: the padded batch.
            features: feature maps by name.
            proposals: of each image, with ``proposal_boxes``.
            targets: in training the ground truth of each image: ``gt_boxes``, ``gt_classes`` and, by
                the heads, ``gt_masks``, ``gt_keypoints``.
        """
        if self.training:
            if targets is None:
                raise ValueError("training needs targets for each image")
            sampled = self.label_and_sample_proposals(proposals, targets)
            return sampled, self.losses(features, sampled, targets)
        boxes = [instances.proposal_boxes.tensor for instances in proposals]
        found = self.detect(features, boxes, images.image_sizes)
        return [
            detections_as_instances(fields, size)
            for fields, size in zip(found, images.image_sizes, strict=True)
        ], {}

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Proposals to learn from, with the fields of the ground truth that each answers for."""
        sampled = []
        for instances, target in zip(proposals, targets, strict=True):
            boxes: Boxes = instances.proposal_boxes
            if self.proposal_append_gt:
                boxes = Boxes.cat([boxes, target.gt_boxes])
            classes, matches = self.label_boxes(boxes, target, self.proposal_matcher)
            positive, negative = subsample_labels(
                classes, self.batch_size_per_image, self.positive_fraction, background=self.num_classes
            )
            chosen = torch.cat([positive, negative])
            result = Instances(instances.image_size, proposal_boxes=boxes[chosen], gt_classes=classes[chosen])
            if len(target):
                for name, value in target.get_fields().items():
                    if name != "gt_classes":
                        result.set(name, value[matches[chosen]])
            else:
                result.gt_boxes = Boxes(torch.zeros_like(boxes[chosen].tensor))
            sampled.append(result)
        self.record_samples(sampled)
        return sampled

    @torch.jit.unused
    def record_samples(self, sampled: list[Instances]) -> None:
        """Record how many proposals an image are learnt from, by foreground and background."""
        classes = [instances.gt_classes for instances in sampled]
        count = len(classes)
        record("roi_head/num_bg_samples", lambda: sum((c == self.num_classes).sum() for c in classes) / count)
        record(
            "roi_head/num_fg_samples",
            lambda: sum(((c >= 0) & (c < self.num_classes)).sum() for c in classes) / count,
        )

    @torch.jit.unused
    def foreground(self, proposals: list[Instances]) -> list[Instances]:
        """The sampled proposals that answer for an object."""
        return [instances[instances.gt_classes < self.num_classes] for instances in proposals]

    @torch.jit.unused
    @torch.no_grad()
    def label_boxes(self, boxes: Boxes, target: Instances, matcher: Matcher) -> tuple[Tensor, Tensor]:
        """(R,) class of each box, K for the background and -1 for ignored, and (R,) index of its truth."""
        matches, labels = matcher(pairwise_iou(target.gt_boxes, boxes))
        return matched_classes(target.gt_classes, matches, labels, self.num_classes), matches


def detections_as_instances(fields: dict[str, Tensor], image_size: tuple[int, int]) -> Instances:
    """The fields of one image's detections as ``Instances``; masks become (D, 1, S, S)."""
    instances = Instances(image_size)
    for name, value in fields.items():
        if name == "pred_boxes":
            instances.set(name, Boxes(value))
        elif name == "pred_masks":
            instances.set(name, value[:, None])
        else:
            instances.set(name, value)
    return instances


def sampling_options(cfg: CfgNode) -> dict[str, Any]:
    """What the configuration says for ``ROIHeads``."""
    node = cfg.MODEL.ROI_HEADS
    return {
        "in_features": tuple(node.IN_FEATURES),
        "num_classes": node.NUM_CLASSES,
        "matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS),
        "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
        "positive_fraction": node.POSITIVE_FRACTION,
        "proposal_append_gt": node.PROPOSAL_APPEND_GT,
    }


def level_shapes(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> tuple[int, list[int]]:
    """Channels, and strides in px, of the feature maps that the heads look at."""
    shapes = shapes_of(input_shape, cfg.MODEL.ROI_HEADS.IN_FEATURES, "MODEL.ROI_HEADS.IN_FEATURES")
    return shapes[0].channels, [shape.stride for shape in shapes]


def build_pooler(node: CfgNode, strides: list[int]) -> ROIPooler:
    """The pooler of a head's configuration."""
    return ROIPooler(
        output_size=node.POOLER_RESOLUTION,
        strides=strides,
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )


def pooled_shape(node: CfgNode, channels: int) -> ShapeSpec:
    """What comes out of that pooler."""
    return ShapeSpec(channels, height=node.POOLER_RESOLUTION, width=node.POOLER_RESOLUTION)


class _WholeROIHeads(nn.Module):
    """levels, proposals, image -> detections, by ROI heads of any kind."""

    def __init__(self, heads: Any, levels: Sequence[str], names: Sequence[str]) -> None:
        super().__init__()
        self.heads: Any = heads
        self.levels: List[str] = list(levels)
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        features = by_name(tensors, self.levels)
        found = self.heads.detect(features, [tensors[-2]], [size_of(tensors[-1])])[0]
        return [found[name] for name in self.names]


def roi_head_segments(heads: Any, levels: Sequence[str], output_names: Sequence[str]) -> list[Segment]:
    """Return what ROI heads declare, or all of them as one segment.

    Args:
        heads: proposals -> detections.
        levels: names of the feature maps of the backbone.
        output_names: fields of the detections.
    """
    levels = getattr(heads, "in_features", levels)
    whole = Segment(
        "roi_heads",
        _WholeROIHeads(heads, levels, output_names),
        (*maps(*levels), *PROPOSAL_BOXES, IMAGE_PORT),
        raw_outputs(output_names),
        Kind.OUTPUTS,
        not_cut("the ROI heads", heads),
    )
    return declared_segments(heads) or [whole]
