"""Base class of ROI heads: sampling of proposals for training, and detections as ``Instances``.

Shapes: R proposals, D detections of an image, K classes.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Dict, List

import torch
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.layers import ShapeSpec
from detexport.layers.conv import shapes_of
from detexport.modeling.graph import GraphMethods, replaced_methods
from detexport.modeling.graph_segment import (
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
from detexport.modeling.matcher import Matcher, matched_classes, overlaps
from detexport.modeling.poolers import ROIPooler
from detexport.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detexport.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detexport.modeling.sampling import subsample_labels
from detexport.structures import Boxes, ImageList, Instances, RotatedBoxes
from detexport.utils.events import record


def split_by_image(x: Tensor, boxes: List[Tensor]) -> List[Tensor]:
    """Split the rows of ``x`` by image, as many rows as each of ``boxes`` has."""
    if len(boxes) == 1:
        return [x]
    parts: List[Tensor] = []
    start = 0
    for box in boxes:
        parts.append(x[start : start + box.shape[0]])
        start += box.shape[0]
    return parts


class ROIHeads(nn.Module):
    """Base class of ROI heads; a subclass adds the heads, ``detect`` and ``losses``.

    With a ``mask_head``, it also defines ``mask_features(levels, boxes)``, the input of that head.

    Args:
        num_classes: K, without the background.
        batch_size_per_image: proposals sampled per image in training.
        positive_fraction: upper bound of the fraction of foreground proposals among them.
        proposal_matcher: labels the proposals in training.
        proposal_append_gt: add the ground truth boxes to the proposals in training.
        in_features: names of the levels.
    """

    box_dim = 4
    detect: Any
    losses: Any
    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        mask_head: Any
        mask_features: Any

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
        in_features: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.in_features: List[str] = list(in_features)
        self.num_classes = num_classes
        self.proposal_matcher = proposal_matcher
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_append_gt = proposal_append_gt
        self.mask_on = False
        self.keypoint_on = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        return sampling_options(cfg)

    def add_masks(
        self,
        levels: List[Tensor],
        detections: List[Dict[str, Tensor]],
    ) -> List[Dict[str, Tensor]]:
        """Add ``pred_masks`` (D, S, S): probabilities in a grid over each box."""
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
        """Return the detections, or in training the sampled proposals and the losses.

        Args:
            images: the padded batch.
            features: feature maps by name.
            proposals: ``proposal_boxes`` of each image.
            targets: in training, the ground truth of each image: ``gt_boxes``, ``gt_classes`` and,
                depending on the heads, ``gt_masks``, ``gt_keypoints``.
        """
        if self.training:
            if targets is None:
                raise ValueError("training needs targets for each image")
            sampled = self.label_and_sample_proposals(proposals, targets)
            return sampled, self.losses(features, sampled, targets)
        return self.detect_instances(features, proposals), {}

    @torch.jit.unused
    def graph_methods(self) -> GraphMethods:
        """Return the documented methods that a graph replaces, each with the method that it calls."""
        return [
            (self, "forward", "detect"),
            (self, "forward_with_given_boxes", "detect"),
            (self, "_forward_mask", "add_masks"),
            *self.mask_head_methods(),
        ]

    @torch.jit.unused
    def mask_head_methods(self) -> GraphMethods:
        """Return the documented method of a mask head that a graph replaces."""
        head = getattr(self, "mask_head", None)
        return [(head, "forward", "masks")] if isinstance(head, BaseMaskRCNNHead) else []

    @torch.jit.unused
    def detect_instances(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Return the detections of each image, as ``detect`` computes them.

        A subclass calls the documented methods instead if its class or its predictor's overrides one of them.

        Args:
            features: feature maps by name.
            proposals: ``proposal_boxes`` of each image.
        """
        sizes = [instances.image_size for instances in proposals]
        found = self.detect(features, [instances.proposal_boxes.tensor for instances in proposals], sizes)
        return [detections_as_instances(*one) for one in zip(found, sizes, strict=True)]

    @torch.jit.unused
    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Return copies of detections with the masks and keypoints that the heads predict for their boxes.

        Args:
            features: feature maps by name.
            instances: with ``pred_boxes`` and ``pred_classes``, of each image.
        """
        return self._forward_mask(features, instances)

    @torch.jit.unused
    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        """Return the detections with masks, or in training the mask loss of the foreground."""
        levels, documented = self.levels_of(features), replaced_methods(self.mask_head_methods())
        if not self.training:
            if not documented:
                return completed(instances, lambda given, _: self.add_masks(levels, given))
            inside = self.mask_features(levels, [one.pred_boxes.tensor for one in instances])
            return self.mask_head(inside[0], instances)
        if self.mask_head is None:
            return {}
        foreground = self.foreground(instances)
        inside = self.mask_features(levels, [one.proposal_boxes.tensor for one in foreground])
        return (
            self.mask_head(inside[0], foreground) if documented else self.mask_head.losses(inside, foreground)
        )

    @torch.jit.unused
    def levels_of(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return the feature maps that the heads pool from, contiguous, as in ``detect``."""
        return [features[name].contiguous() for name in self.in_features]

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Sample proposals for training; each keeps its fields and gets the ``gt_*`` of its ground truth."""
        sampled = []
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        for instances, target in zip(proposals, targets, strict=True):
            boxes: Any = instances.proposal_boxes
            classes, matches = self.label_boxes(boxes, target, self.proposal_matcher)
            positive, negative = subsample_labels(
                classes, self.batch_size_per_image, self.positive_fraction, bg_label=self.num_classes
            )
            chosen = torch.cat([positive, negative])
            result = instances[chosen]
            result.gt_classes = classes[chosen]
            if len(target):
                for name, value in target.get_fields().items():
                    if name.startswith("gt_") and not result.has(name):
                        result.set(name, value[matches[chosen]])
            else:
                result.gt_boxes = type(boxes)(torch.zeros_like(boxes[chosen].tensor))
            sampled.append(result)
        self.record_samples(sampled)
        return sampled

    @torch.jit.unused
    def record_samples(self, sampled: list[Instances]) -> None:
        """Record the numbers of sampled foreground and background proposals per image."""
        classes = [instances.gt_classes for instances in sampled]
        count = len(classes)
        record("roi_head/num_bg_samples", lambda: sum((c == self.num_classes).sum() for c in classes) / count)
        record(
            "roi_head/num_fg_samples",
            lambda: sum(((c >= 0) & (c < self.num_classes)).sum() for c in classes) / count,
        )

    @torch.jit.unused
    def foreground(self, proposals: list[Instances]) -> list[Instances]:
        """Return the foreground proposals of each image."""
        return [instances[instances.gt_classes < self.num_classes] for instances in proposals]

    @torch.jit.unused
    @torch.no_grad()
    def label_boxes(self, boxes: Any, target: Instances, matcher: Matcher) -> tuple[Tensor, Tensor]:
        """Return each box's class (R,), K background, -1 ignored, and index (R,) of its ground truth."""
        matches, labels = matcher(overlaps(target.gt_boxes, boxes))
        return matched_classes(target.gt_classes, matches, labels, self.num_classes), matches


def detections_as_instances(fields: dict[str, Tensor], image_size: tuple[int, int]) -> Instances:
    """Return the detections of one image as ``Instances``; masks become (D, 1, S, S)."""
    instances = Instances(image_size)
    for name, value in fields.items():
        if name == "pred_boxes":
            instances.set(name, RotatedBoxes(value) if value.shape[1] == 5 else Boxes(value))
        elif name == "pred_masks":
            instances.set(name, value[:, None])
        else:
            instances.set(name, value)
    return instances


def completed(
    instances: list[Instances],
    add_fields: Callable[[list[dict[str, Tensor]], list[tuple[int, int]]], list[dict[str, Tensor]]],
) -> list[Instances]:
    """Return copies of detections with added fields.

    Args:
        instances: with ``pred_boxes`` and ``pred_classes``, of each image.
        add_fields: returns these two fields and the added ones, given the image sizes.
    """
    sizes = [one.image_size for one in instances]
    given = [{"pred_boxes": one.pred_boxes.tensor, "pred_classes": one.pred_classes} for one in instances]
    found = add_fields(given, sizes)
    return [
        Instances(size, **(one.get_fields() | detections_as_instances(fields, size).get_fields()))
        for one, fields, size in zip(instances, found, sizes, strict=True)
    ]


def sampling_options(cfg: CfgNode) -> dict[str, Any]:
    """Return the constructor arguments of ``ROIHeads`` for a configuration."""
    node = cfg.MODEL.ROI_HEADS
    return {
        "num_classes": node.NUM_CLASSES,
        "proposal_matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS),
        "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
        "positive_fraction": node.POSITIVE_FRACTION,
        "proposal_append_gt": node.PROPOSAL_APPEND_GT,
    }


def level_shapes(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> tuple[int, list[int]]:
    """Return the number of channels and the strides in px of the heads' feature maps."""
    shapes = shapes_of(input_shape, cfg.MODEL.ROI_HEADS.IN_FEATURES, "MODEL.ROI_HEADS.IN_FEATURES")
    return shapes[0].channels, [shape.stride for shape in shapes]


def build_pooler(node: CfgNode, strides: list[int]) -> ROIPooler:
    """Build the pooler of a head from its configuration node."""
    return ROIPooler(
        output_size=node.POOLER_RESOLUTION,
        scales=[1 / stride for stride in strides],
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )


def pooled_shape(node: CfgNode, channels: int) -> ShapeSpec:
    """Return the shape of the pooled features of a head."""
    return ShapeSpec(channels, height=node.POOLER_RESOLUTION, width=node.POOLER_RESOLUTION)


def select_foreground_proposals(
    proposals: list[Instances], bg_label: int
) -> tuple[list[Instances], list[Tensor]]:
    """Return the foreground proposals of each image, and (R,) bool, which these are.

    Args:
        proposals: with ``gt_classes``, of each image.
        bg_label: class of the background; -1 is not foreground either.
    """
    chosen = [(one.gt_classes != -1) & (one.gt_classes != bg_label) for one in proposals]
    return [one[mask] for one, mask in zip(proposals, chosen, strict=True)], chosen


class _WholeROIHeads(nn.Module):
    """levels, proposals, image -> detections, by any ROI heads."""

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
    """Return the segments that ROI heads declare, or one segment for all of them.

    Args:
        heads: proposals -> detections.
        levels: names of the backbone's feature maps.
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
