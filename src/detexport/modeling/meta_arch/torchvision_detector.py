"""torchvision's own detection models behind the interface of ours.

The layers, their names and the losses are torchvision's. The way from the layers' outputs to detections is
written with the functions that our models use, because torchvision's own code does not go through
``torch.export`` and ONNX with a free height and width. The detections are the same.

Shapes: N images, L levels, A anchors a cell, R proposals or detections, K classes without the background.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList as TorchvisionImageList
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.models.detection.ssd import SSD

from detexport.config import CfgNode, get_cfg
from detexport.contract import (
    DETECTION_OUTPUTS,
    Contract,
    ResizeRule,
    TensorSpec,
    keypoint_output,
    mask_output,
)
from detexport.errors import ConfigError
from detexport.layers import FrozenBatchNorm2d, nms_per_class
from detexport.modeling.anchor_generator import by_anchor
from detexport.modeling.box_regression import apply_deltas
from detexport.modeling.meta_arch.image_model import ImageModel
from detexport.modeling.meta_arch.inputs import gt_instances_of
from detexport.modeling.meta_arch.retinanet import top_candidates
from detexport.modeling.poolers import ROIPooler
from detexport.modeling.proposal_generator.rpn import select_proposals
from detexport.modeling.registries import META_ARCH_REGISTRY, Registry
from detexport.modeling.roi_heads.base import split_by_image
from detexport.modeling.roi_heads.fast_rcnn import select_detections
from detexport.modeling.roi_heads.keypoint_head import heatmaps_to_keypoints
from detexport.modeling.roi_heads.mask_head import class_masks
from detexport.structures import BitMasks, Boxes, Instances, PolygonMasks
from detexport.structures.boxes import clip_boxes, nonempty_boxes
from detexport.structures.image_list import pad_images

SMALLEST_DETECTION = 1e-2
"""Shorter side of a box in px below which torchvision's two-stage models drop it."""

POOLING_SIDE = 64
"""Side in px of an image that every stride of a pooled level divides."""

KNOWN_HEADS = (
    RetinaNetClassificationHead.forward,
    RetinaNetRegressionHead.forward,
    FCOSClassificationHead.forward,
    FCOSRegressionHead.forward,
)
"""What ``TorchvisionDense.predict`` does."""

TORCHVISION_REGISTRY = Registry("detection model of torchvision", "MODEL.TORCHVISION.NAME")
"""What builds a model with random parameters; ``num_classes`` counts labels, with the background."""

for _name in torchvision.models.list_models(module=detection):
    TORCHVISION_REGISTRY.register(
        partial(torchvision.models.get_model, _name, weights=None, weights_backbone=None), name=_name
    )


class TorchvisionDetector(ImageModel):
    """What torchvision's families share; a subclass adds ``detect``.

    Its parameters have the names that torchvision's own model gives them.

    Args:
        net: torchvision's model.
        outputs: of the graph.
        num_classes: K.
        score_threshold: a detection's score is greater.
        nms_threshold: IoU above which the lower score of one class is dropped.
        max_detections: detections an image.
        first_label: torchvision's label of class 0.
        resize: how images are resized before the model.
        size_divisibility: images are padded to a multiple of it.
    """

    def __init__(
        self,
        net: Any,
        *,
        outputs: tuple[TensorSpec, ...],
        num_classes: int,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        first_label: int,
        resize: ResizeRule,
        size_divisibility: int,
    ) -> None:
        super().__init__(
            pixel_mean=tuple(255.0 * value for value in net.transform.image_mean),
            pixel_std=tuple(255.0 * value for value in net.transform.image_std),
            input_format="RGB",
            resize=resize,
            size_divisibility=size_divisibility,
        )
        self.backbone = net.backbone
        # A method, not a child: the whole model over the same layers, used in training alone.
        self.torchvision_losses: Callable[..., dict[str, Tensor]] = net.forward
        self.outputs = outputs
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.first_label = first_label

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Detections of each image, or in training the losses.

        Args:
            batched_inputs: one dict an image: ``image`` (3, H, W) RGB, values 0..255; ``height`` and
                ``width`` of the output in px, by default the image's own; in training ``instances`` with
                ``gt_boxes``, ``gt_classes`` from 0 and, where the model has them, ``gt_masks`` and
                ``gt_keypoints``.

        Returns:
            one dict an image: ``instances`` with ``pred_boxes``, ``scores``, ``pred_classes`` (torchvision's
            label less ``first_label``: COCO's labels keep the gaps that they have in torchvision); with a
            mask head ``pred_masks`` (R, height, width) bool, pasted as for our models; with a keypoint
            head ``pred_keypoints`` (R, K, 3), x and y in px and a score. Boxes that are empty in the output
            are dropped. In training torchvision's losses by torchvision's names.

        Raises:
            InputError: an input is not what is described above.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = [image.to(torch.float32) / 255 for image in self.input_images(batched_inputs)]
        instances = gt_instances_of(batched_inputs, self.device, self.num_classes)
        return self.torchvision_losses(images, [self.target(truth) for truth in instances])

    @torch.jit.unused
    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> Any:
        """Detections of each image.

        Args:
            batched_inputs: see ``forward``.
            do_postprocess: scale boxes and paste masks into the output; without it the ``Instances`` are
                given as they are, in px of the input, masks as (R, 1, S, S) probabilities.
        """
        images = self.input_images(batched_inputs)
        instances = [
            as_instances(fields, (image.shape[1], image.shape[2]))
            for fields, image in zip(self.detect(images), images, strict=True)
        ]
        if not do_postprocess:
            return instances
        return self.postprocess(instances, batched_inputs)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """The graph that is exported: images -> detections by field, in px of each image, masks raw.

        Args:
            images: each (3, H, W), values 0..255.
        """
        raise NotImplementedError

    @torch.jit.unused
    def target(self, instances: Instances) -> dict[str, Tensor]:
        """The ground truth of an image as torchvision's losses take it."""
        target = {
            "boxes": instances.gt_boxes.tensor,
            "labels": instances.gt_classes.to(torch.int64) + self.first_label,
        }
        if instances.has("gt_masks"):
            masks = instances.gt_masks
            if isinstance(masks, PolygonMasks):
                masks = BitMasks.from_polygon_masks(masks, *instances.image_size).to(self.device)
            target["masks"] = masks.tensor.to(torch.uint8)
        if instances.has("gt_keypoints"):
            target["keypoints"] = instances.gt_keypoints.tensor
        return target

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """What the exported graph takes and gives."""
        return self.contract_of(
            self.outputs,
            class_names,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )


def as_instances(fields: dict[str, Tensor], image_size: tuple[int, int]) -> Instances:
    """The detections of one image as ``Instances``, masks (R, 1, S, S)."""
    instances = Instances(image_size, **{**fields, "pred_boxes": Boxes(fields["pred_boxes"])})
    if "pred_masks" in fields:
        instances.pred_masks = fields["pred_masks"][:, None]
    return instances


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
        """See ``TorchvisionDetector.detect``."""
        batch, sizes = pad_images([self.normalize(image) for image in images], self.size_divisibility)
        levels = list(self.backbone(batch).values())
        detections = self.detect_boxes(levels, self.propose(batch, levels, sizes), sizes)
        return self.add_keypoints(levels, self.add_masks(levels, detections), sizes)

    def propose(
        self, batch: Tensor, levels: List[Tensor], image_sizes: List[Tuple[int, int]]
    ) -> List[Tensor]:
        """Boxes (R, 4) XYXY in px for each image."""
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
        """Boxes (R, 4) XYXY in px and logits (R,) of each image: see ``select_proposals``."""
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
        """``pred_boxes``, ``scores`` and ``pred_classes`` of each image."""
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
        """What ``detect_boxes`` gives, of logits (sum R, K + 1) and differences (sum R, 4K + 4)."""
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
        """``pred_masks`` (R, S, S), a probability a cell of a grid over each box."""
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
        """``pred_keypoints`` (R, K, 3)."""
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


class TorchvisionDense(TorchvisionDetector):
    """RetinaNet and FCOS.

    Args:
        net: torchvision's model.
        **options: see ``TorchvisionDetector``.
    """

    cells: Tensor

    def __init__(self, net: Any, **options: Any) -> None:
        super().__init__(net, outputs=DETECTION_OUTPUTS, **options)
        self.head = require_known_head(net.head)
        self.register_buffer("cells", torch.stack(net.anchor_generator.cell_anchors), persistent=False)
        self.topk_candidates: int = net.topk_candidates
        self.has_centerness = isinstance(net, detection.FCOS)
        self.num_labels: int = num_labels(net)
        # FCOS has none; TorchScript wants a list of numbers.
        weights = (1.0, 1.0, 1.0, 1.0) if self.has_centerness else net.box_coder.weights
        self.box_weights: List[float] = list(weights)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """See ``TorchvisionDetector.detect``."""
        batch, sizes = pad_images([self.normalize(image) for image in images], self.size_divisibility)
        levels = list(self.backbone(batch).values())
        anchors = anchor_grids(batch, levels, self.cells)
        outputs: List[Dict[str, Tensor]] = [self.outputs_of(self.predict(level)) for level in levels]
        return self.find_detections(anchors, outputs, sizes)

    def find_detections(
        self,
        anchors: List[Tensor],
        outputs: List[Dict[str, Tensor]],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """The best anchors and classes of each level, decoded, and suppressed per class over all levels.

        Args:
            anchors: (HWA, 4) a level, XYXY in px.
            outputs: of the head for each level: see ``outputs_of``.
            image_sizes: height and width of each image in px.
        """
        results: List[Dict[str, Tensor]] = []
        for index, size in enumerate(image_sizes):
            level_boxes: List[Tensor] = []
            level_scores: List[Tensor] = []
            level_classes: List[Tensor] = []
            for level, output in enumerate(outputs):
                scores, places, classes = top_candidates(
                    self.scores_of(output, index), self.score_threshold, self.topk_candidates
                )
                deltas = output["bbox_regression"][index][places]
                level_boxes.append(self.decode(deltas, anchors[level][places]))
                level_scores.append(scores)
                level_classes.append(classes)
            results.append(
                suppress(
                    torch.cat(level_boxes),
                    torch.cat(level_scores),
                    torch.cat(level_classes),
                    size,
                    self.nms_threshold,
                    self.max_detections,
                )
            )
        return results

    def predict(self, level: Tensor) -> Dict[str, Tensor]:
        """Maps (N, A * ..., H, W) of the head for one level (N, C, H, W), by its own names.

        The head's own ``forward`` ends in a reshape that copies or not by the level's size, and
        ``torch.export`` would refuse the sizes that decide otherwise.
        """
        logits = self.head.classification_head.cls_logits(self.head.classification_head.conv(level))
        features = self.head.regression_head.conv(level)
        deltas = self.head.regression_head.bbox_reg(features)
        maps = {"cls_logits": logits}
        if hasattr(self.head.regression_head, "bbox_ctrness"):
            deltas = F.relu(deltas)  # FCOS's are distances
            # Twice: of a single channel torch.export would ask whether the level has a single cell.
            weight = self.head.regression_head.bbox_ctrness.weight
            bias = self.head.regression_head.bbox_ctrness.bias
            if bias is not None:
                bias = torch.cat([bias, bias])
            twice = F.conv2d(features, torch.cat([weight, weight]), bias, padding=1)
            maps["bbox_ctrness"] = twice[:, : weight.shape[0]]
        maps["bbox_regression"] = deltas
        return maps

    def outputs_of(self, maps: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """What ``predict`` gives for one level, anchor by anchor, (N, HWA, ...) each."""
        output = {
            "cls_logits": by_anchor(maps["cls_logits"], self.num_labels),
            "bbox_regression": by_anchor(maps["bbox_regression"], 4),
        }
        if self.has_centerness:
            output["bbox_ctrness"] = by_anchor(maps["bbox_ctrness"], 1)
        return output

    def scores_of(self, output: Dict[str, Tensor], image: int) -> Tensor:
        """(HWA, K) scores of one level of one image."""
        scores = output["cls_logits"][image][:, self.first_label :].sigmoid()
        if self.has_centerness:
            scores = torch.sqrt(scores * output["bbox_ctrness"][image].sigmoid())
        return scores

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """(R, 4) outputs of the head for (R, 4) anchors -> (R, 4) boxes, XYXY in px."""
        if self.has_centerness:
            # Distances of a point from the four sides, in sides of its anchor (Tian et al. 2019).
            center = 0.5 * (anchors[:, :2] + anchors[:, 2:])
            side = anchors[:, 2:] - anchors[:, :2]
            return torch.cat([center - deltas[:, :2] * side, center + deltas[:, 2:] * side], dim=1)
        return apply_deltas(deltas, anchors, self.box_weights)


class TorchvisionSSD(TorchvisionDetector):
    """SSD and SSDlite: every image is stretched to one fixed size, inside the graph.

    Args:
        net: torchvision's model.
        **options: see ``TorchvisionDetector``.
    """

    default_boxes: Tensor

    def __init__(self, net: Any, **options: Any) -> None:
        super().__init__(net, outputs=DETECTION_OUTPUTS, **options)
        self.head = net.head
        width, height = net.transform.fixed_size
        self.fixed_height: int = height
        self.fixed_width: int = width
        features = [torch.empty(shape) for shape in feature_shapes(net.backbone, (height, width)).values()]
        image = TorchvisionImageList(torch.empty(1, 3, height, width), [(height, width)])
        self.register_buffer("default_boxes", net.anchor_generator(image, features)[0], persistent=False)
        self.topk_candidates: int = net.topk_candidates
        self.box_weights: List[float] = list(net.box_coder.weights)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """See ``TorchvisionDetector.detect``."""
        batch = torch.cat([self.stretch(self.normalize(image)) for image in images])
        outputs: Dict[str, Tensor] = self.head(list(self.backbone(batch).values()))
        results: List[Dict[str, Tensor]] = []
        for index, image in enumerate(images):
            logits, deltas = outputs["cls_logits"][index], outputs["bbox_regression"][index]
            results.append(self.find_detections(logits, deltas, image))
        return results

    def find_detections(self, logits: Tensor, deltas: Tensor, image: Tensor) -> Dict[str, Tensor]:
        """(A, K + 1) logits and (A, 4) differences -> detections of one image (3, H, W), in its own px."""
        fixed = (self.fixed_height, self.fixed_width)
        boxes = apply_deltas(deltas, self.default_boxes, self.box_weights)
        scores, places, classes = self.candidates(logits)
        found = suppress(boxes[places], scores, classes, fixed, self.nms_threshold, self.max_detections)
        x = found["pred_boxes"][:, 0::2] * (image.shape[2] / self.fixed_width)
        y = found["pred_boxes"][:, 1::2] * (image.shape[1] / self.fixed_height)
        found["pred_boxes"] = torch.stack((x, y), dim=2).flatten(1)
        return found

    def stretch(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (1, 3, fixed height, fixed width), bilinear."""
        size = [self.fixed_height, self.fixed_width]
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)

    def candidates(self, logits: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """(A, K + 1) logits -> scores, default boxes and classes of the best of each class, (R,) each."""
        scores = F.softmax(logits, dim=1)[:, 1:]
        # Padding lets topk take k of fewer than k; it is below every threshold.
        best, places = F.pad(scores, [0, 0, 0, self.topk_candidates], value=-1.0).topk(
            self.topk_candidates, dim=0
        )
        found = (best.t() > self.score_threshold).nonzero()
        classes, ranks = found[:, 0], found[:, 1]
        return best[ranks, classes], places[ranks, classes], classes


def anchor_grids(batch: Tensor, levels: List[Tensor], cells: Tensor) -> List[Tensor]:
    """The anchors of each level, in the order of a (H, W, A) grid.

    torchvision's strides follow the sizes: px of the padded image by cells of the level, rounded down.

    Args:
        batch: (N, 3, H, W) padded images.
        levels: one (N, C, H, W) a level.
        cells: (L, A, 4) anchors of one cell.

    Returns:
        one (HWA, 4) a level, XYXY in px.
    """
    anchors: List[Tensor] = []
    for index, level in enumerate(levels):
        y = first_pixels(batch[0, 0, :, 0], level[0, 0, :, 0])[:, None].expand(-1, level.shape[3])
        x = first_pixels(batch[0, 0, 0, :], level[0, 0, 0, :])[None, :].expand(level.shape[2], -1)
        shifts = torch.stack((x, y, x, y), dim=2)
        anchors.append((shifts[:, :, None, :] + cells[index]).reshape(-1, 4))
    return anchors


def first_pixels(pixels: Tensor, cells: Tensor) -> Tensor:
    """Where each cell starts: (P,) pixels and (C,) cells of one line -> (C,) px.

    By counting ones: neither a size nor a device is written into a trace, and no number is multiplied with a
    line, which an exporter takes for a line of one cell where the sample has one.
    """
    stride = torch.floor(torch.ones_like(pixels).sum() / torch.ones_like(cells).sum())
    steps = stride.expand_as(cells)
    return steps.cumsum(0) - steps


def suppress(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    image_size: Tuple[int, int],
    nms_threshold: float,
    max_detections: int,
) -> Dict[str, Tensor]:
    """Detections of one image: clipped to it, suppressed per class, the best of them.

    Args:
        boxes: (R, 4) XYXY in px; one that is not finite is dropped.
        scores: (R,).
        classes: (R,) int64.
        image_size: height and width in px.
        nms_threshold: IoU above which the lower score of one class is dropped.
        max_detections: how many to keep.
    """
    finite = (torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)).nonzero()[:, 0]
    boxes, scores, classes = clip_boxes(boxes[finite], image_size), scores[finite], classes[finite]
    keep = nms_per_class(boxes, scores, classes, nms_threshold)[:max_detections]
    return {"pred_boxes": boxes[keep], "scores": scores[keep], "pred_classes": classes[keep]}


def feature_shapes(backbone: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the feature maps of one image, height and width in px, without computing any."""
    state = {name: tensor.to("meta") for name, tensor in backbone.state_dict().items()}
    # Two images: batch normalization in training refuses one value a channel.
    images = torch.empty(2, 3, *size, device="meta")
    with torch.no_grad():
        features = torch.func.functional_call(backbone, state, (images,))
    return {name: (1, *feature.shape[1:]) for name, feature in features.items()}


def pooler_like(pooler: Any, shapes: dict[str, tuple[int, ...]]) -> ROIPooler:
    """Our pooler for torchvision's, ``shapes`` those of an image of ``POOLING_SIDE``."""
    features = {name: torch.zeros(shape) for name, shape in shapes.items()}
    # torchvision's pooler learns its strides from the first image it meets, wrongly from a tiny one.
    pooler(features, [torch.tensor([[0.0, 0.0, 32.0, 32.0]])], [(POOLING_SIDE, POOLING_SIDE)])
    strides = [int(1 / scale) for scale in pooler.scales]
    if strides[0] == strides[-1]:
        # All boxes belong to the first of several levels of one stride.
        strides = strides[:1]
    return ROIPooler(
        output_size=pooler.output_size[0],
        strides=strides,
        sampling_ratio=pooler.sampling_ratio,
        pooler_type="ROIAlign",
        canonical_box_size=pooler.canonical_scale,
        canonical_level=pooler.canonical_level,
    )


def new_net(cfg: CfgNode) -> Any:
    """One of torchvision's models by its name, or one built by a function of yours; nothing is downloaded.

    Raises:
        ConfigError: there is no such model, it does not take an option, or it is none of torchvision's.
    """
    node = cfg.MODEL.TORCHVISION
    options: dict[str, Any] = {}
    if node.NUM_CLASSES is not None:
        options["num_classes"] = node.NUM_CLASSES + node.FIRST_LABEL
    if node.NUM_KEYPOINTS is not None:
        if "." not in node.NAME and not node.NAME.startswith("keypointrcnn"):
            raise unfit(node.NAME, "NUM_KEYPOINTS", node.NUM_KEYPOINTS, "null: it has no keypoints")
        options["num_keypoints"] = node.NUM_KEYPOINTS
    net = TORCHVISION_REGISTRY.get(node.NAME)(**options)
    if not is_torchvision(net):
        raise ConfigError(
            "this is none of torchvision's detection models",
            got=f"MODEL.TORCHVISION.NAME: {node.NAME}, which gives a {type(net).__name__}",
            expected="FasterRCNN, RetinaNet, FCOS, SSD, or a class that extends one of them",
        )
    return net


def set_norm(backbone: nn.Module, eps: float | None, freeze: bool) -> None:
    """Change every batch normalization in a backbone: its ``eps``, or to one of fixed statistics."""
    for name, layer in list(backbone.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            if eps is not None:
                layer.eps = eps
            if freeze:
                parent, _, child = name.rpartition(".")
                frozen = FrozenBatchNorm2d(layer.num_features, layer.eps)
                setattr(backbone.get_submodule(parent), child, frozen)


def unfit(name: str, key: str, got: Any, expected: str) -> ConfigError:
    """An option that does not fit torchvision's model ``name``."""
    return ConfigError(
        f"an option does not fit torchvision's {name}",
        got=f"MODEL.TORCHVISION.{key}: {got!r}",
        expected=expected,
        remedy=f"correct MODEL.TORCHVISION.{key}, or leave it out",
    )


def check_options(cfg: CfgNode) -> None:
    """Refuse values out of range.

    Raises:
        ConfigError: an option is not a number of its kind, or out of range.
    """
    node = cfg.MODEL.TORCHVISION
    for kind, lowest, highest, keys in (
        (int, 0, 1, ("FIRST_LABEL",)),
        (int, 0, math.inf, ("MIN_SIZE",)),
        (int, 1, math.inf, ("DETECTIONS_PER_IMAGE", "MAX_SIZE", "NUM_CLASSES", "NUM_KEYPOINTS")),
        (float, 0, 1, ("NMS_THRESH", "NORM_EPS", "SCORE_THRESH")),
    ):
        for key in keys:
            value = node[key]
            if value is None and key != "FIRST_LABEL":
                continue
            if type(value) not in (int, kind) or not lowest <= value <= highest:
                raise unfit(node.NAME, key, value, f"{kind.__name__} from {lowest} to {highest}")


def refuse_idle_options(cfg: CfgNode) -> None:
    """Refuse what other models are configured by, and torchvision's are not.

    Raises:
        ConfigError: such an option is not at its default.
    """
    if cfg.INPUT.FORMAT != "RGB":
        raise ConfigError(
            "torchvision's models take RGB images",
            got=f"INPUT.FORMAT: {cfg.INPUT.FORMAT}",
            expected="RGB",
            remedy="set INPUT.FORMAT to RGB",
        )
    used = ("DEVICE", "META_ARCHITECTURE", "TORCHVISION", "WEIGHTS")
    idle = {
        "INPUT": ("MIN_SIZE_TEST", "MAX_SIZE_TEST"),
        "MODEL": tuple(key for key in cfg.MODEL if key not in used),
        "TEST": ("DETECTIONS_PER_IMAGE",),
    }
    defaults = get_cfg()
    changed = [
        f"{group}.{key}"
        for group, keys in idle.items()
        for key in keys
        if cfg[group][key] != defaults[group][key]
    ]
    if changed:
        raise ConfigError(
            "options that have no effect on torchvision's models",
            got=", ".join(changed),
            expected="their defaults",
            remedy="remove them; MODEL.TORCHVISION has the options of torchvision's models",
        )


@META_ARCH_REGISTRY.register(name="TorchvisionDetector")
def build_torchvision_detector(cfg: CfgNode) -> TorchvisionDetector:
    """One of torchvision's detection models by its name, as the configuration describes it.

    Raises:
        ConfigError: torchvision has no such model, or an option does not fit it.
    """
    refuse_idle_options(cfg)
    check_options(cfg)
    node = cfg.MODEL.TORCHVISION
    net = new_net(cfg)
    family = family_of(net)
    if node.FIRST_LABEL == 0 and family is not TorchvisionDense:
        raise unfit(node.NAME, "FIRST_LABEL", 0, "1: label 0 is its background")
    fixed_size = net.transform.fixed_size
    for key, default in (("MIN_SIZE", None), ("MAX_SIZE", None), ("NORM_EPS", None), ("FREEZE_NORM", False)):
        if fixed_size is not None and node[key] != default:
            raise unfit(
                node.NAME, key, node[key], f"{default}: SSD has a fixed size and trains all its layers"
            )
    if fixed_size is None:
        set_norm(getattr(net.backbone, "body", net.backbone), node.NORM_EPS, node.FREEZE_NORM)
        # In training, too, images come as they are to be used.
        net.transform._skip_resize = True
    return wrap_torchvision(
        net,
        first_label=node.FIRST_LABEL,
        score_threshold=node.SCORE_THRESH,
        nms_threshold=node.NMS_THRESH,
        max_detections=node.DETECTIONS_PER_IMAGE,
        min_size=node.MIN_SIZE,
        max_size=node.MAX_SIZE,
    )


def wrap_torchvision(
    net: Any,
    *,
    first_label: int = 1,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
) -> TorchvisionDetector:
    """Return a built torchvision detector behind the interface of our models, over the same layers.

    What is None is taken from ``net``.

    Args:
        net: ``FasterRCNN`` (also Mask and Keypoint R-CNN), ``RetinaNet``, ``FCOS`` or ``SSD`` of
            torchvision, or of a class that extends one of them.
        first_label: torchvision's label of class 0; 0 for a RetinaNet or FCOS that was trained without
            background.
        score_threshold: a detection's score is greater.
        nms_threshold: IoU above which the lower score of one class is dropped.
        max_detections: detections an image.
        min_size: px of the shortest edge of a resized image; not for SSD, whose size is fixed.
        max_size: px of its longest edge, at most.
    """
    family = family_of(net)
    # The first stage of a two-stage model has thresholds of its own.
    thresholds = net.roi_heads if family is TorchvisionRCNN else net
    return family(
        net,
        num_classes=num_labels(net) - first_label,
        score_threshold=_given(score_threshold, thresholds.score_thresh),
        nms_threshold=_given(nms_threshold, thresholds.nms_thresh),
        max_detections=_given(max_detections, thresholds.detections_per_img),
        first_label=first_label,
        resize=ResizeRule(0, 0)
        if net.transform.fixed_size is not None
        else ResizeRule(
            _given(min_size, net.transform.min_size[-1]), _given(max_size, net.transform.max_size)
        ),
        size_divisibility=net.transform.size_divisible,
    )


def is_torchvision(net: Any) -> bool:
    """Whether it is one of torchvision's detection models that ``wrap_torchvision`` accepts."""
    return isinstance(net, detection.FasterRCNN | detection.RetinaNet | detection.FCOS | SSD)


def family_of(net: Any) -> Callable[..., TorchvisionDetector]:
    """Which of the classes above ``net`` belongs to."""
    if isinstance(net, detection.FasterRCNN):
        return TorchvisionRCNN
    return TorchvisionSSD if isinstance(net, SSD) else TorchvisionDense


def require_known_head(head: Any) -> Any:
    """See that a head of RetinaNet or FCOS computes as torchvision's does, whose steps are taken one by one.

    Raises:
        ConfigError: one of its parts has a ``forward`` of its own.
    """
    for part in (head.classification_head, head.regression_head):
        if type(part).forward not in KNOWN_HEADS:
            raise ConfigError(
                "a head of its own cannot be exported",
                got=type(part).__qualname__,
                expected=", ".join(known.__qualname__ for known in KNOWN_HEADS),
                remedy="let the head's layers differ, not its forward",
            )
    return head


def num_labels(net: Any) -> int:
    """Labels of torchvision's model, with the background."""
    if isinstance(net, detection.FasterRCNN):
        return net.roi_heads.box_predictor.cls_score.out_features
    head = net.head.classification_head
    return head.num_columns if isinstance(net, SSD) else head.num_classes


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
