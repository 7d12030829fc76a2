"""torchvision's Faster, Mask and Keypoint R-CNN.

Shapes: N images, L levels, R proposals or detections, K classes without the background.
"""

from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.contract import DETECTION_OUTPUTS, TensorSpec, keypoint_output, mask_output
from detexport.modeling.anchor_generator import by_anchor
from detexport.modeling.box_regression import apply_deltas
from detexport.modeling.graph_segment import (
    BATCH,
    IMAGE_PORT,
    PROPOSALS,
    DenseHead,
    Kind,
    Port,
    Segment,
    dense_maps,
    maps,
    own_methods,
    rows,
    size_of,
)
from detexport.modeling.meta_arch.image_model import preprocess_segment
from detexport.modeling.poolers import ROIPooler, pooling_segment
from detexport.modeling.proposal_generator.rpn import select_proposals
from detexport.modeling.roi_heads.base import split_by_image
from detexport.modeling.roi_heads.box_head import box_head_segment
from detexport.modeling.roi_heads.fast_rcnn import box_inference_segment, select_detections
from detexport.modeling.roi_heads.keypoint_head import heatmaps_to_keypoints, keypoint_segments
from detexport.modeling.roi_heads.mask_head import class_masks
from detexport.modeling.torchvision.anchors import anchor_grids
from detexport.modeling.torchvision.backbone import feature_shapes, level_names, pyramid_segments
from detexport.modeling.torchvision.detector import TorchvisionDetector
from detexport.structures.boxes import clip_boxes, nonempty_boxes
from detexport.structures.image_list import pad_images

SMALLEST_DETECTION = 1e-2
"""Lower bound in px of the sides of a box in torchvision's two-stage models."""

POOLING_SIDE = 64
"""Side in px of an image that is a multiple of the strides of all pooled levels."""


class TorchvisionRCNN(TorchvisionDetector):
    """Faster, Mask and Keypoint R-CNN.

    Args:
        net: torchvision's model.
        **options: see ``TorchvisionDetector``.
    """

    cells: Tensor

    def __init__(self, net: Any, **options: Any) -> None:
        heads = net.roi_heads
        shapes = feature_shapes(net.backbone, (POOLING_SIDE, POOLING_SIDE))
        outputs: tuple[TensorSpec, ...] = DETECTION_OUTPUTS
        if heads.has_mask():
            outputs = (*outputs, mask_output(2 * heads.mask_roi_pool.output_size[0]))
        if heads.has_keypoint():
            outputs = (*outputs, keypoint_output(heads.keypoint_predictor.kps_score_lowres.out_channels))
        super().__init__(net, outputs=outputs, **options)
        self.rpn = net.rpn
        self.roi_heads = net.roi_heads
        self.register_buffer("cells", torch.stack(net.rpn.anchor_generator.cell_anchors), persistent=False)
        self.proposal_weights: List[float] = list(net.rpn.box_coder.weights)
        self.pre_nms_topk: int = net.rpn._pre_nms_top_n["testing"]
        self.post_nms_topk: int = net.rpn._post_nms_top_n["testing"]
        self.rpn_nms_threshold: float = net.rpn.nms_thresh
        self.min_box_size: float = net.rpn.min_size
        self.box_weights: List[float] = list(heads.box_coder.weights)
        self.smallest_detection = SMALLEST_DETECTION
        self.box_pooler = pooler_like(heads.box_roi_pool, shapes)
        self.mask_pooler = pooler_like(heads.mask_roi_pool, shapes) if heads.has_mask() else None
        self.keypoint_pooler = pooler_like(heads.keypoint_roi_pool, shapes) if heads.has_keypoint() else None

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the raw detections of each image: see ``TorchvisionDetector.detect``."""
        batch, sizes = pad_images([self.normalize(image) for image in images], self.size_divisibility)
        levels = list(self.backbone(batch).values())
        detections = self.detect_boxes(levels, self.propose(batch, levels, sizes), sizes)
        return self.add_keypoints(levels, self.add_masks(levels, detections), sizes)

    def propose(
        self, batch: Tensor, levels: List[Tensor], image_sizes: List[Tuple[int, int]]
    ) -> List[Tensor]:
        """Return proposals (R, 4), XYXY in px, of each image."""
        logit_maps, delta_maps = self.rpn.head(levels)
        logits = [by_anchor(maps, 1).flatten(1) for maps in logit_maps]
        deltas = [by_anchor(maps, 4) for maps in delta_maps]
        anchors = anchor_grids(batch, levels, self.cells)
        return [boxes for boxes, _ in self.find_proposals(anchors, logits, deltas, image_sizes)]

    def find_proposals(
        self,
        anchors: List[Tensor],
        logits: List[Tensor],
        deltas: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Tuple[Tensor, Tensor]]:
        """Select proposals (R, 4), XYXY in px, and their logits (R,): see ``select_proposals``."""
        return select_proposals(
            anchors,
            logits,
            deltas,
            image_sizes,
            self.proposal_weights,
            self.pre_nms_topk,
            self.post_nms_topk,
            self.rpn_nms_threshold,
            self.min_box_size,
        )

    def detect_boxes(
        self, levels: List[Tensor], proposals: List[Tensor], image_sizes: List[Tuple[int, int]]
    ) -> List[Dict[str, Tensor]]:
        """Compute ``pred_boxes``, ``scores`` and ``pred_classes`` of each image."""
        pooled = self.box_pooler.pool(levels, proposals)
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return self.select_boxes(logits, deltas, proposals, image_sizes)

    def select_boxes(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Select the detections of each image from logits (sum R, K + 1) and box deltas (sum R, 4K + 4)."""
        # The background comes first.
        image_scores = split_by_image(F.softmax(logits, dim=1)[:, 1:], proposals)
        image_deltas = split_by_image(deltas[:, 4:], proposals)
        results: List[Dict[str, Tensor]] = []
        for index in range(len(proposals)):
            boxes = apply_deltas(image_deltas[index], proposals[index], self.box_weights).reshape(-1, 4)
            scores = image_scores[index]
            inside = clip_boxes(boxes, image_sizes[index])
            large = nonempty_boxes(inside, self.smallest_detection).reshape(scores.shape)
            boxes, scores, classes = select_detections(
                boxes.reshape(scores.shape[0], scores.shape[1], 4),
                torch.where(large, scores, torch.full_like(scores, -1.0)),
                image_sizes[index],
                self.score_threshold,
                self.nms_threshold,
                self.max_detections,
            )
            results.append({"pred_boxes": boxes, "scores": scores, "pred_classes": classes})
        return results

    def add_masks(self, levels: List[Tensor], detections: List[Dict[str, Tensor]]) -> List[Dict[str, Tensor]]:
        """Add ``pred_masks`` (R, S, S): probabilities in a grid over each box."""
        if self.mask_pooler is not None:
            boxes = [fields["pred_boxes"] for fields in detections]
            classes = torch.cat([fields["pred_classes"] for fields in detections])
            logits = self.roi_heads.mask_predictor(
                self.roi_heads.mask_head(self.mask_pooler.pool(levels, boxes))
            )
            masks = split_by_image(class_masks(logits, classes + 1), boxes)
            for index in range(len(detections)):
                detections[index]["pred_masks"] = masks[index]
        return detections

    def add_keypoints(
        self,
        levels: List[Tensor],
        detections: List[Dict[str, Tensor]],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Add ``pred_keypoints`` (R, K, 3): x and y in px and a score."""
        if self.keypoint_pooler is not None:
            boxes = [fields["pred_boxes"] for fields in detections]
            logits = self.roi_heads.keypoint_predictor(
                self.roi_heads.keypoint_head(self.keypoint_pooler.pool(levels, boxes))
            )
            heatmaps = split_by_image(logits, boxes)
            for index in range(len(detections)):
                detections[index]["pred_keypoints"] = heatmaps_to_keypoints(
                    heatmaps[index], boxes[index], image_sizes[index]
                )
        return detections

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of preprocessing, backbone, RPN, box head, mask head and keypoint head."""
        levels, heads = maps(*level_names(len(self.cells))), self.roi_heads
        outputs = dense_maps([port.name for port in levels])
        proposals = (*outputs, *BATCH, IMAGE_PORT)
        segments = [
            preprocess_segment(self),
            *pyramid_segments(self.backbone, levels),
            Segment("rpn_head", DenseHead(self.rpn.head), levels, outputs),
            Segment("proposals", _TorchvisionProposals(self), proposals, PROPOSALS, Kind.PROPOSALS),
            pooling_segment("box_pooled", self.box_pooler, pooled_levels(self.box_pooler), "proposal_boxes"),
            box_head_segment("box", heads.box_head, heads.box_predictor),
            box_inference_segment(_TorchvisionBoxInference(self)),
        ]
        if self.mask_pooler is not None:
            pooled, inputs = pooled_levels(self.mask_pooler), rows("mask_pooled", "pred_classes")
            segments += [
                pooling_segment("mask_pooled", self.mask_pooler, pooled, "pred_boxes"),
                Segment("mask_head", _TorchvisionMaskHead(heads), inputs, rows("pred_masks")),
            ]
        if self.keypoint_pooler is not None:
            layers = nn.Sequential(heads.keypoint_head, heads.keypoint_predictor)
            pooled = pooled_levels(self.keypoint_pooler)
            segments += keypoint_segments(self.keypoint_pooler, layers, pooled)
        return segments


def pooled_levels(pooler: ROIPooler) -> tuple[Port, ...]:
    """Return the ports of a pooler's levels."""
    return maps(*level_names(len(pooler.scales)))


class _TorchvisionProposals(nn.Module):
    """L maps of logits, L of box deltas, batch, image -> proposals and their logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        levels = len(tensors) // 2 - 1
        logit_maps, batch, image = tensors[:levels], tensors[-2], tensors[-1]
        logits = [by_anchor(one, 1).flatten(1) for one in logit_maps]
        deltas = [by_anchor(one, 4) for one in tensors[levels : 2 * levels]]
        anchors = anchor_grids(batch, logit_maps, self.model.cells)
        boxes, scores = self.model.find_proposals(anchors, logits, deltas, [size_of(image)])[0]
        return [boxes, scores]


class _TorchvisionBoxInference(nn.Module):
    """logits, box deltas, proposals, image -> boxes, scores, classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        found = self.model.select_boxes(tensors[0], tensors[1], [tensors[2]], [size_of(tensors[3])])[0]
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]


class _TorchvisionMaskHead(nn.Module):
    """pooled features, classes -> the mask of each box."""

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.head = heads.mask_head
        self.predictor = heads.mask_predictor

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [class_masks(self.predictor(self.head(tensors[0])), tensors[1] + 1)]


def pooler_like(pooler: Any, shapes: dict[str, tuple[int, ...]]) -> ROIPooler:
    """Convert torchvision's pooler; ``shapes`` are those of the feature maps at ``POOLING_SIDE``."""
    features = {name: torch.zeros(shape) for name, shape in shapes.items()}
    # torchvision's pooler infers its strides from its first image, wrongly if that is tiny.
    pooler(features, [torch.tensor([[0.0, 0.0, 32.0, 32.0]])], [(POOLING_SIDE, POOLING_SIDE)])
    strides = [int(1 / scale) for scale in pooler.scales]
    if strides[0] == strides[-1]:
        # With several levels of one stride, all boxes are pooled from the first.
        strides = strides[:1]
    return ROIPooler(
        output_size=pooler.output_size[0],
        scales=[1 / stride for stride in strides],
        sampling_ratio=pooler.sampling_ratio,
        pooler_type="ROIAlign",
        canonical_box_size=pooler.canonical_scale,
        canonical_level=pooler.canonical_level,
    )
