"""FCOS: a one-stage detector without anchors (Tian et al. 2019, arXiv:1904.01355).

The centre of each cell is a point that may predict one box, by the distances to its edges. The code of
anchors applies, with the cell as the anchor of its point.

Shapes: N images, L levels, K classes, R points of all levels, G ground truth boxes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from detexport.contract import ResizeRule
from detexport.layers import ShapeSpec, nms_per_class
from detexport.layers.conv import OneChannelConv2d, init_normal, shapes_of
from detexport.modeling.anchor_generator import DefaultAnchorGenerator, tensor_anchors
from detexport.modeling.backbone import backbone_segments, padding_of
from detexport.modeling.box_regression import Box2BoxTransformLinear, apply_linear_deltas, is_recorded
from detexport.modeling.graph_segment import DETECTIONS, Kind, Segment, dense_maps, maps, own_methods
from detexport.modeling.meta_arch.dense_detector import DenseDetector
from detexport.modeling.meta_arch.ground_truth import gt_instances_of
from detexport.modeling.meta_arch.image_model import preprocess_segment
from detexport.modeling.meta_arch.retinanet import levels_subnet, shared_channels, top_candidates
from detexport.modeling.registries import META_ARCH_REGISTRY
from detexport.structures import Boxes, Instances, pairwise_point_box_distance

SIZE_OF_LEVEL = (4, 8)
"""A point predicts boxes whose farthest edge is 4 to 8 strides away; in the outer levels also others."""


class FCOSHead(nn.Module):
    """Two convolutional subnets that all levels share: one for classes, one for boxes and the centerness.

    Args:
        input_shape: shapes of the levels, which have the same number of channels.
        num_classes: K.
        conv_dims: channels of the convolutions of each subnet.
        norm: normalization of the subnets: see ``levels_norm``.
        prior_prob: probability of every class at the start of training.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        conv_dims: Sequence[int],
        norm: str = "",
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_levels = len(input_shape)
        width = shared_channels(input_shape)
        self.cls_subnet = levels_subnet(width, conv_dims, len(input_shape), norm)
        self.bbox_subnet = levels_subnet(width, conv_dims, len(input_shape), norm)
        width = conv_dims[-1] if conv_dims else width
        self.cls_score = nn.Conv2d(width, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(width, 4, 3, padding=1)
        self.ctrness = OneChannelConv2d(width, 3, padding=1)
        init_normal(self.cls_score, std=0.01, bias=-math.log((1 - prior_prob) / prior_prob))
        init_normal(self.bbox_pred, std=0.01)
        init_normal(self.ctrness, std=0.01)

    def forward(self, features: List[Tensor]) -> Tuple[List[Tensor], List[Tensor], List[Tensor]]:
        """Return logits (N, K, H, W), distances (N, 4, H, W), centerness logits (N, 1, H, W) by level."""
        for_classes, for_boxes = features, features
        for layer in self.cls_subnet:
            for_classes = layer(for_classes)
        for layer in self.bbox_subnet:
            for_boxes = layer(for_boxes)
        return (
            [self.cls_score(x) for x in for_classes],
            [self.bbox_pred(x) for x in for_boxes],
            [self.ctrness(x) for x in for_boxes],
        )


@META_ARCH_REGISTRY.register()
class FCOS(DenseDetector):
    """A backbone and a dense head without anchors.

    Args:
        backbone: image -> feature maps.
        head: logits, distances and centerness of each point.
        head_in_features: names of the levels, from fine to coarse; by default all of the backbone, by their
            strides.
        box2box_transform: encoding of the distances; by default ``Box2BoxTransformLinear``.
        num_classes: K.
        center_sampling_radius: in training, points up to this many strides from the centre of a box may
            predict it; 0 for all points inside.
        focal_loss_alpha: weight of the foreground; -1 for no weights.
        focal_loss_gamma: exponent that reduces the loss of easy points.
        test_score_thresh: lower bound of the scores, exclusive.
        test_topk_candidates: candidates per level before NMS.
        test_nms_thresh: IoU threshold of NMS.
        max_detections_per_image: detections per image.
        pixel_mean: see ``ImageModel``.
        pixel_std: see ``ImageModel``.
        input_format: order of the image's channels, ``"BGR"`` (the default) or ``"RGB"``.
        vis_period: see ``ImageModel``.
        resize: see ``ImageModel``.
    """

    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        transform_type: Any
    transform_type = Box2BoxTransformLinear

    def __init__(
        self,
        *,
        backbone: Any,
        head: Any,
        head_in_features: Sequence[str] | None = None,
        box2box_transform: Any = None,
        num_classes: int,
        center_sampling_radius: float = 1.5,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        test_score_thresh: float = 0.2,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        vis_period: int = 0,
        resize: ResizeRule | None = None,
    ) -> None:
        super().__init__(
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
            vis_period=vis_period,
            resize=resize,
            **padding_of(backbone),
        )
        shapes = backbone.output_shape()
        by_stride = sorted(shapes, key=lambda name: shapes[name].stride)
        names = by_stride if head_in_features is None else list(head_in_features)
        strides = [shape.stride for shape in shapes_of(shapes, names, "head_in_features")]
        self.backbone = backbone
        self.head = head
        self.in_features: List[str] = names
        points = DefaultAnchorGenerator(
            sizes=[[stride] for stride in strides], aspect_ratios=[[1.0]], strides=strides, offset=0.5
        )
        self.anchor_generator = tensor_anchors(points)
        self.box2box_transform = box2box_transform or Box2BoxTransformLinear(normalize_by_size=True)
        # Otherwise the model calls the ``apply_deltas`` of its transform, in eager mode and in a trace.
        self.is_recorded = is_recorded(self.box2box_transform, self.transform_type)
        self.normalize_by_size = bool(getattr(self.box2box_transform, "normalize_by_size", True))
        self.num_classes = num_classes
        self.center_sampling_radius = center_sampling_radius
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.score_threshold = test_score_thresh
        self.topk_candidates = test_topk_candidates
        self.nms_threshold = test_nms_thresh
        self.max_detections = max_detections_per_image
        # Moving average of the number of foreground points in a batch; it starts at a typical number.
        self.loss_normalizer = 300.0

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return the detections of each image, or in training the losses.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), values 0..255 in the order of
                ``input_format``; ``height`` and ``width`` of the output in px, by default the image's own;
                ``instances`` with ``gt_boxes`` and ``gt_classes`` in training.

        Returns:
            One dict per image: ``instances`` with ``pred_boxes``, ``scores``, ``pred_classes``. In training
            ``loss_fcos_cls``, ``loss_fcos_loc`` and ``loss_fcos_ctr``.

        Raises:
            InputError: an input does not match the description above.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = gt_instances_of(batched_inputs, self.device, self.num_classes)
        logits, deltas, centerness, anchors = self.predict_points(self.backbone(images.tensor))
        labels, gt_boxes = self.label_points(anchors, targets)
        return self.losses(anchors, logits, labels, deltas, gt_boxes, centerness)

    @torch.jit.unused
    def detections_of(self, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the detections of each image by field: see ``find_detections``."""
        logits, deltas, centerness, anchors = self.predict_points(features)
        return self.find_detections(anchors, logits, deltas, centerness)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the detections of each image by field, in px of the image, not clipped to it, as exported.

        Args:
            images: each (C, H, W), values 0..255.
        """
        batch, _ = self.pad_images([self.normalize(image) for image in images], self.size_divisibility)
        logits, deltas, centerness, anchors = self.predict_points(self.backbone(batch))
        return self.find_detections(anchors, logits, deltas, centerness)

    def predict_points(
        self,
        features: Dict[str, Tensor],
    ) -> Tuple[List[Tensor], List[Tensor], List[Tensor], List[Tensor]]:
        """Return logits (N, HW, K), distances (N, HW, 4), centerness (N, HW, 1), cells (HW, 4) by level."""
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        logit_maps, delta_maps, centerness_maps = self.head(levels)
        logits = [by_point(one) for one in logit_maps]
        deltas = [by_point(one) for one in delta_maps]
        centerness = [by_point(one) for one in centerness_maps]
        return logits, deltas, centerness, anchors

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Decode distances (R, 4) from the centres of cells (R, 4) to boxes (R, 4), XYXY in px."""
        if not torch.jit.is_scripting() and not self.is_recorded:
            return self.box2box_transform.apply_deltas(deltas, anchors)
        return apply_linear_deltas(deltas, anchors, self.normalize_by_size)

    def find_detections(
        self,
        anchors: List[Tensor],
        logits: List[Tensor],
        deltas: List[Tensor],
        centerness: List[Tensor],
    ) -> List[Dict[str, Tensor]]:
        """Select detections: decode the best points and classes of each level, then run NMS per class.

        A score is the geometric mean of the probability of the class and the centerness.
        """
        results: List[Dict[str, Tensor]] = []
        for image in range(logits[0].shape[0]):
            level_boxes: List[Tensor] = []
            level_scores: List[Tensor] = []
            level_classes: List[Tensor] = []
            for level in range(len(anchors)):
                scores = torch.sqrt(logits[level][image].sigmoid() * centerness[level][image].sigmoid())
                best, where, classes = top_candidates(scores, self.score_threshold, self.topk_candidates)
                level_boxes.append(self.decode(deltas[level][image][where], anchors[level][where]))
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
        outputs = dense_maps(self.in_features, ("logits", "deltas", "centerness"))
        return [
            preprocess_segment(self),
            *backbone_segments(self.backbone),
            Segment("fcos_head", _Head(self.head), maps(*self.in_features), outputs),
            Segment("detections", _Detections(self), outputs, DETECTIONS, Kind.DETECTIONS),
        ]

    @torch.jit.unused
    @torch.no_grad()
    def label_points(
        self, anchors: list[Tensor], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the class (R,) of each point, K background, and its ground truth box (R, 4), by image."""
        labels, boxes = [], []
        for instances in gt_instances:
            matches = match_points(anchors, instances.gt_boxes, self.center_sampling_radius)
            found = matches >= 0
            label = torch.full_like(matches, self.num_classes)
            label[found] = instances.gt_classes[matches[found]]
            box = torch.zeros_like(torch.cat(anchors))
            box[found] = instances.gt_boxes.tensor[matches[found]]
            labels.append(label)
            boxes.append(box)
        return labels, boxes

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Tensor],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
        pred_centerness: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute the losses of the classes (focal), the boxes (GIoU) and the centerness (cross entropy).

        All are normalized by a moving average of the number of foreground points.
        """
        label, points = torch.stack(gt_labels), torch.cat(anchors)
        foreground = label < self.num_classes
        normalizer = self.update_normalizer(foreground)
        own = points.expand(len(label), -1, -1)[foreground]
        boxes = torch.stack(gt_boxes)[foreground]
        predicted = self.decode(torch.cat(pred_anchor_deltas, dim=1)[foreground], own)
        loss_ctr = F.binary_cross_entropy_with_logits(
            torch.cat(pred_centerness, dim=1)[foreground][:, 0],
            centerness_of(self.box2box_transform.get_deltas(own, boxes)),
            reduction="sum",
        )
        losses = {
            "loss_fcos_cls": self.class_loss(torch.cat(pred_logits, dim=1), label),
            "loss_fcos_loc": generalized_box_iou_loss(predicted, boxes, reduction="sum"),
            "loss_fcos_ctr": loss_ctr,
        }
        return {name: loss / normalizer for name, loss in losses.items()}


def match_points(anchors: list[Tensor], gt_boxes: Boxes, radius: float) -> Tensor:
    """Return the index (R,) of the ground truth box that each point predicts, -1 for none.

    A point predicts a box that contains it, whose centre is at most ``radius`` strides away, and whose size
    fits the level; of several the smallest.

    Args:
        anchors: the cells of each level (HW, 4), XYXY in px.
        gt_boxes: ground truth of the image; may be empty.
        radius: see ``FCOS``.
    """
    cells = torch.cat(anchors)
    if not len(gt_boxes):
        return torch.full_like(cells[:, 0], -1, dtype=torch.int64)
    points, strides = (cells[:, :2] + cells[:, 2:]) / 2, cells[:, 2] - cells[:, 0]
    distances = pairwise_point_box_distance(points, gt_boxes)
    fits = distances.amin(dim=2) > 0
    if radius > 0:
        from_centre = (points[:, None] - gt_boxes.get_centers()[None]).abs().amax(dim=2)
        fits &= from_centre < radius * strides[:, None]
    lower, upper = (factor * strides for factor in SIZE_OF_LEVEL)
    lower[: len(anchors[0])] = 0
    upper[len(cells) - len(anchors[-1]) :] = torch.inf
    farthest = distances.amax(dim=2)
    fits &= (farthest > lower[:, None]) & (farthest < upper[:, None])
    areas = torch.where(fits, gt_boxes.area()[None], torch.inf)
    smallest, matches = areas.min(dim=1)
    return torch.where(smallest.isfinite(), matches, -1)


def centerness_of(distances: Tensor) -> Tensor:
    """Return the (R,) centerness of points with these distances (R, 4): 1 at the centre, 0 at an edge."""
    x, y = distances[:, 0::2], distances[:, 1::2]
    return torch.sqrt((x.amin(dim=1) / x.amax(dim=1)) * (y.amin(dim=1) / y.amax(dim=1)))


def by_point(maps: Tensor) -> Tensor:
    """Reshape a head's output (N, V, H, W) to the order of the points, (N, HW, V)."""
    return maps.flatten(2).transpose(1, 2)


class _Head(nn.Module):
    """L levels -> L maps of logits, L of distances, L of centerness logits."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        logits, deltas, centerness = self.head(tensors)
        return logits + deltas + centerness


class _Detections(nn.Module):
    """L maps of logits, L of distances, L of centerness logits -> boxes, scores, classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)
        self.anchors: Any = model.anchor_generator

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        levels = len(tensors) // 3
        logits = [by_point(one) for one in tensors[:levels]]
        deltas = [by_point(one) for one in tensors[levels : 2 * levels]]
        centerness = [by_point(one) for one in tensors[2 * levels :]]
        anchors = self.anchors(tensors[:levels])
        found = self.model.find_detections(anchors, logits, deltas, centerness)[0]
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]
