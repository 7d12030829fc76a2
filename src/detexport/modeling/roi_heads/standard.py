"""The heads of models with a feature pyramid: box, and mask where the model has one.

Shapes: R proposals, D detections of an image, K classes.
"""

from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.conv import shapes_of
from detexport.modeling.box_regression import Box2BoxTransform
from detexport.modeling.matcher import Matcher, subsample_labels
from detexport.modeling.poolers import ROIPooler
from detexport.modeling.registries import ROI_HEADS_REGISTRY
from detexport.modeling.roi_heads.box_head import build_box_head
from detexport.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detexport.modeling.roi_heads.mask_head import build_mask_head, class_masks
from detexport.structures import Boxes, ImageList, Instances, pairwise_iou


def build_roi_heads(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.ROI_HEADS.NAME`` over feature maps of these shapes."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


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


class StandardROIHeads(nn.Module):
    """Box and mask heads over shared feature maps, each with a pooler of its own.

    Args:
        in_features: names of the levels.
        num_classes: K, without the background.
        matcher: labels of the proposals in training.
        batch_size_per_image: proposals an image to learn from.
        positive_fraction: at most this part of them is foreground.
        proposal_append_gt: learn from the ground truth's boxes too.
        box_pooler: features of a proposal.
        box_head: vector of a proposal.
        box_predictor: scores and boxes.
        mask_pooler: features of a detection; none without masks.
        mask_head: masks of a detection; none without masks.
    """

    def __init__(
        self,
        *,
        in_features: tuple[str, ...],
        num_classes: int,
        matcher: Matcher,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_append_gt: bool,
        box_pooler: ROIPooler,
        box_head: Any,
        box_predictor: FastRCNNOutputLayers,
        mask_pooler: ROIPooler | None = None,
        mask_head: Any = None,
    ) -> None:
        super().__init__()
        self.in_features: List[str] = list(in_features)
        self.num_classes = num_classes
        self.proposal_matcher = matcher
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_append_gt = proposal_append_gt
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.mask_on = mask_head is not None

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
            targets: in training the ground truth of each image: ``gt_boxes``, ``gt_classes``, ``gt_masks``.
        """
        if self.training:
            if targets is None:
                raise ValueError("training needs targets for each image")
            sampled = self.label_and_sample_proposals(proposals, targets)
            return sampled, self.losses(features, sampled)
        boxes = [instances.proposal_boxes.tensor for instances in proposals]
        found = self.detect(features, boxes, images.image_sizes)
        return [
            detections_as_instances(fields, size)
            for fields, size in zip(found, images.image_sizes, strict=True)
        ], {}

    def detect(
        self,
        features: Dict[str, Tensor],
        proposals: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Detections of each image by field: ``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks``.

        Args:
            features: feature maps by name.
            proposals: one (R, 4) an image, XYXY in px.
            image_sizes: height and width of each image in px.
        """
        levels = [features[name] for name in self.in_features]
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler.pool(levels, proposals)))
        image_logits = split_by_image(logits, proposals)
        image_deltas = split_by_image(deltas, proposals)
        results: List[Dict[str, Tensor]] = []
        for index in range(len(proposals)):
            boxes, scores, classes = self.box_predictor.detect(
                image_logits[index], image_deltas[index], proposals[index], image_sizes[index]
            )
            results.append({"pred_boxes": boxes, "scores": scores, "pred_classes": classes})
        return self.add_masks(levels, results)

    def add_masks(
        self,
        levels: List[Tensor],
        detections: List[Dict[str, Tensor]],
    ) -> List[Dict[str, Tensor]]:
        """``pred_masks`` (D, S, S), a probability a cell of a grid over each box."""
        if self.mask_pooler is not None and self.mask_head is not None:
            boxes = [fields["pred_boxes"] for fields in detections]
            classes = torch.cat([fields["pred_classes"] for fields in detections])
            masks = class_masks(self.mask_head(self.mask_pooler.pool(levels, boxes)), classes)
            image_masks = split_by_image(masks, boxes)
            for index in range(len(detections)):
                detections[index]["pred_masks"] = image_masks[index]
        return detections

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
            matches, labels = self.proposal_matcher(pairwise_iou(target.gt_boxes, boxes))
            if len(target):
                classes = target.gt_classes[matches]
                classes[labels == 0] = self.num_classes
                classes[labels == -1] = -1
            else:
                classes = torch.full_like(matches, self.num_classes)
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
        return sampled

    @torch.jit.unused
    def losses(self, features: dict[str, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """The losses of the box head and, over the foreground, of the mask head."""
        levels = [features[name] for name in self.in_features]
        pooled = self.box_pooler(levels, [instances.proposal_boxes for instances in proposals])
        losses = self.box_predictor.losses(self.box_predictor(self.box_head(pooled)), proposals)
        if self.mask_pooler is not None and self.mask_head is not None:
            foreground = [instances[instances.gt_classes < self.num_classes] for instances in proposals]
            pooled = self.mask_pooler(levels, [instances.proposal_boxes for instances in foreground])
            losses.update(self.mask_head.losses(self.mask_head(pooled), foreground))
        return losses


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


def _check_box_options(cfg: CfgNode) -> None:
    node = cfg.MODEL.ROI_BOX_HEAD
    unsupported = {
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": node.TRAIN_ON_PRED_BOXES,
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": node.USE_FED_LOSS,
        "MODEL.KEYPOINT_ON": cfg.MODEL.KEYPOINT_ON,
    }
    for key, value in unsupported.items():
        if value:
            raise ConfigError("unsupported option", got=f"{key}: {value}", expected=f"{key}: False")
    if node.BBOX_REG_LOSS_TYPE != "smooth_l1":
        raise ConfigError(
            "unsupported box loss",
            got=f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE: {node.BBOX_REG_LOSS_TYPE}",
            expected="smooth_l1",
        )


@ROI_HEADS_REGISTRY.register(name="StandardROIHeads")
def build_standard_roi_heads(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> StandardROIHeads:
    """The heads of the published configurations with FPN."""
    _check_box_options(cfg)
    heads, box, mask = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    shapes = shapes_of(input_shape, heads.IN_FEATURES, "MODEL.ROI_HEADS.IN_FEATURES")
    channels, strides = shapes[0].channels, [shape.stride for shape in shapes]

    def pooler(node: CfgNode) -> ROIPooler:
        return ROIPooler(
            output_size=node.POOLER_RESOLUTION,
            strides=strides,
            sampling_ratio=node.POOLER_SAMPLING_RATIO,
            pooler_type=node.POOLER_TYPE,
        )

    def pooled(node: CfgNode) -> ShapeSpec:
        return ShapeSpec(channels, height=node.POOLER_RESOLUTION, width=node.POOLER_RESOLUTION)

    box_head = build_box_head(cfg, pooled(box))
    return StandardROIHeads(
        in_features=tuple(heads.IN_FEATURES),
        num_classes=heads.NUM_CLASSES,
        matcher=Matcher(heads.IOU_THRESHOLDS, heads.IOU_LABELS),
        batch_size_per_image=heads.BATCH_SIZE_PER_IMAGE,
        positive_fraction=heads.POSITIVE_FRACTION,
        proposal_append_gt=heads.PROPOSAL_APPEND_GT,
        box_pooler=pooler(box),
        box_head=box_head,
        box_predictor=FastRCNNOutputLayers(
            box_head.output_shape,
            box2box_transform=Box2BoxTransform(tuple(box.BBOX_REG_WEIGHTS)),
            num_classes=heads.NUM_CLASSES,
            cls_agnostic_bbox_reg=box.CLS_AGNOSTIC_BBOX_REG,
            use_sigmoid=box.USE_SIGMOID_CE,
            score_threshold=heads.SCORE_THRESH_TEST,
            nms_threshold=heads.NMS_THRESH_TEST,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            smooth_l1_beta=box.SMOOTH_L1_BETA,
            box_loss_weight=box.BBOX_REG_LOSS_WEIGHT,
        ),
        mask_pooler=pooler(mask) if cfg.MODEL.MASK_ON else None,
        mask_head=build_mask_head(cfg, pooled(mask)) if cfg.MODEL.MASK_ON else None,
    )
