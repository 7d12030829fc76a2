"""Cascade R-CNN (Cai and Vasconcelos 2018): a sequence of box heads, each refines the boxes of the last.

Shapes: R proposals, D detections of an image, K classes.
"""

from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling.box_regression import Box2BoxTransform
from detexport.modeling.graph import GraphMethods, replaced_methods
from detexport.modeling.graph_segment import (
    DETECTIONS,
    IMAGE_PORT,
    PROPOSAL_BOXES,
    Kind,
    Port,
    Segment,
    maps,
    own_methods,
    rows,
    size_of,
)
from detexport.modeling.matcher import Matcher
from detexport.modeling.poolers import ROIPooler, pooling_segment
from detexport.modeling.registries import ROI_HEADS_REGISTRY
from detexport.modeling.roi_heads.base import (
    build_pooler,
    level_shapes,
    pooled_shape,
    split_by_image,
)
from detexport.modeling.roi_heads.box_head import box_head_segment, build_box_head
from detexport.modeling.roi_heads.fast_rcnn import (
    FastRCNNOutputLayers,
    fast_rcnn_inference,
    predictor_methods,
)
from detexport.modeling.roi_heads.standard import StandardROIHeads
from detexport.structures import Boxes, Instances
from detexport.structures.boxes import clip_boxes
from detexport.utils.events import name_scope


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """A box head per stage over one pooler; the mask head is that of ``StandardROIHeads``.

    Args:
        box_pooler: pools the features of the boxes at every stage.
        box_heads: one per stage; pooled features -> vectors.
        box_predictors: one per stage; vectors -> logits and class-agnostic box deltas.
        proposal_matchers: one per stage; labels the boxes in training, the first those of the proposals.
        **options: see ``StandardROIHeads``.

    Raises:
        ConfigError: the stages have not as many heads, predictors and matchers.
    """

    @configurable
    def __init__(
        self,
        *,
        box_pooler: ROIPooler,
        box_heads: list[Any],
        box_predictors: list[FastRCNNOutputLayers],
        proposal_matchers: list[Matcher],
        **options: Any,
    ) -> None:
        counts = (len(box_heads), len(box_predictors), len(proposal_matchers))
        if len(set(counts)) != 1:
            raise ConfigError(
                "each stage of a cascade has a head, a predictor and a matcher",
                got=f"{counts[0]} box_heads, {counts[1]} box_predictors, {counts[2]} proposal_matchers",
                expected="as many of each",
                remedy="give one of each for every stage",
            )
        options.setdefault("proposal_matcher", proposal_matchers[0])
        super().__init__(
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            **options,
        )
        self.proposal_matchers = proposal_matchers

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the box heads; extensions override this."""
        _check_cascade_options(cfg)
        box, cascade = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_CASCADE_HEAD
        channels, strides = level_shapes(cfg, input_shape)
        heads = [build_box_head(cfg, pooled_shape(box, channels)) for _ in cascade.IOUS]
        predictors = [
            FastRCNNOutputLayers(cfg, head.output_shape, box2box_transform=Box2BoxTransform(tuple(weights)))
            for head, weights in zip(heads, cascade.BBOX_REG_WEIGHTS, strict=True)
        ]
        return {
            "box_in_features": tuple(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "box_pooler": build_pooler(box, strides),
            "box_heads": heads,
            "box_predictors": predictors,
            "proposal_matchers": [Matcher([iou], [0, 1]) for iou in cascade.IOUS],
        }

    @torch.jit.unused
    def final_predictor(self) -> FastRCNNOutputLayers:
        """Return the last stage's box predictor, which selects the detections."""
        return self.box_predictor[-1]

    def detect_boxes(
        self,
        levels: List[Tensor],
        proposals: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Select detections from the last stage's boxes and the mean of all stages' scores."""
        boxes = proposals
        scores: List[Tensor] = []
        results: List[Dict[str, Tensor]] = []
        for stage, (head, predictor) in enumerate(zip(self.box_head, self.box_predictor)):  # noqa: B905
            if stage > 0:
                boxes = [clip_boxes(box, image_sizes[index]) for index, box in enumerate(boxes)]
            logits, deltas = predictor(head(self.box_pooler.pool(levels, boxes)))
            scores.append(predictor.probabilities(logits))
            boxes = split_by_image(predictor.decode(deltas, torch.cat(boxes)), boxes)
        total = scores[0]
        for stage_scores in scores[1:]:
            total = total + stage_scores
        image_scores = split_by_image(total * (1.0 / len(scores)), boxes)
        for index in range(len(boxes)):
            selected, best, classes = self.box_predictor[-1].select(
                boxes[index], image_scores[index], image_sizes[index]
            )
            results.append({"pred_boxes": selected, "scores": best, "pred_classes": classes})
        return results

    @torch.jit.unused
    def predictor_methods(self) -> GraphMethods:
        """Return the documented methods of the predictors that a graph replaces."""
        return [one for predictor in self.box_predictor for one in predictor_methods(predictor)]

    @torch.jit.unused
    def losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses of all stages and, over the foreground, of the mask and keypoint heads."""
        return {
            **self._forward_box(features, proposals, targets),
            **self._forward_mask(features, proposals),
            **self._forward_keypoint(features, proposals),
        }

    @torch.jit.unused
    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> Any:
        """Return the detections without masks and keypoints, or in training the box losses.

        Args:
            features: feature maps by name.
            proposals: ``proposal_boxes`` of each image; in training with the ground truth.
            targets: in training, the ground truth of each image.
        """
        levels = self.levels_of(features)
        if self.training:
            return self.box_losses(levels, proposals, targets or [])
        if not replaced_methods(self.predictor_methods()):
            return super()._forward_box(features, proposals)
        sizes = [one.image_size for one in proposals]
        scores: list[list[Tensor]] = []
        boxes: list[Tensor] = []
        for stage, (head, predictor) in enumerate(zip(self.box_head, self.box_predictor, strict=True)):
            if stage > 0:
                clipped = [Boxes(clip_boxes(*one)) for one in zip(boxes, sizes, strict=True)]
                proposals = [
                    Instances(size, proposal_boxes=box) for size, box in zip(sizes, clipped, strict=True)
                ]
            predictions = predictor(head(self.box_pooler(levels, [one.proposal_boxes for one in proposals])))
            scores.append(predictor.predict_probs(predictions, proposals))
            boxes = predictor.predict_boxes(predictions, proposals)
        mean = [torch.stack(of_image).mean(dim=0) for of_image in zip(*scores, strict=True)]
        last = self.final_predictor()
        limits = (last.score_threshold, last.nms_threshold, last.max_detections)
        return fast_rcnn_inference(boxes, mean, sizes, *limits)[0]

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of each stage, of the mean of their scores, and of the heads on detections."""
        segments: list[Segment] = []
        scores: list[Port] = []
        boxes = PROPOSAL_BOXES
        for stage in range(len(self.box_head)):
            segments += self.stage_segments(stage, boxes)
            decoded = segments[-1].outputs
            scores.append(decoded[0])
            boxes = decoded[1:]
        inference = _CascadeInference(self.final_predictor())
        inputs = (*scores, *boxes, IMAGE_PORT)
        segments.append(Segment("box_inference", inference, inputs, DETECTIONS, Kind.DETECTIONS))
        return [*segments, *self.instance_segments()]

    @torch.jit.unused
    def stage_segments(self, stage: int, boxes: tuple[Port, ...]) -> list[Segment]:
        """Return the segments from the previous stage's boxes, or the proposals, to scores and boxes."""
        name, levels, predictor = f"stage{stage}", maps(*self.in_features), self.box_predictor[stage]
        pooled = f"{name}_pooled"
        if stage == 0:
            pooling = pooling_segment(pooled, self.box_pooler, levels, boxes[0].name)
        else:
            inputs, boxes = (*levels, *boxes, IMAGE_PORT), rows(f"{name}_clipped")
            outputs = (*boxes, *rows(pooled))
            pooling = Segment(pooled, _ClippedPool(self.box_pooler), inputs, outputs, Kind.CHOICES)
        head = box_head_segment(name, self.box_head[stage], predictor)
        decoded = rows(f"{name}_scores", f"{name}_boxes")
        decoding = Segment(f"{name}_boxes", _CascadeBoxes(predictor), (*head.outputs, *boxes), decoded)
        return [pooling, head, decoding]

    @torch.jit.unused
    def box_losses(
        self, levels: list[Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute ``loss_cls_stage{k}`` and ``loss_box_reg_stage{k}`` of every stage."""
        losses: dict[str, Tensor] = {}
        boxes: list[Tensor] = []
        stages = zip(self.box_head, self.box_predictor, self.proposal_matchers, strict=True)
        for stage, (head, predictor, matcher) in enumerate(stages):
            if stage > 0:
                proposals = self.label_refined(boxes, targets, matcher)
                with name_scope(f"stage{stage}"):
                    self.record_samples(proposals)
            pooled = self.box_pooler(levels, [instances.proposal_boxes for instances in proposals])
            if pooled.requires_grad:
                # Scales the gradient of the shared features: all stages together weigh as much as one head.
                pooled.register_hook(lambda gradient: gradient / len(self.box_head))
            logits, deltas = predictor(head(pooled))
            with name_scope(f"stage{stage}"):
                stage_losses = predictor.losses((logits, deltas), proposals)
            losses |= {f"{name}_stage{stage}": loss for name, loss in stage_losses.items()}
            before = [instances.proposal_boxes.tensor for instances in proposals]
            boxes = split_by_image(predictor.decode(deltas.detach(), torch.cat(before)), before)
        return losses

    @torch.jit.unused
    def label_refined(
        self, boxes: list[Tensor], targets: list[Instances], matcher: Matcher
    ) -> list[Instances]:
        """Return the last stage's boxes, clipped and not empty, as labelled proposals."""
        labelled = []
        for box, target in zip(boxes, targets, strict=True):
            refined = Boxes(clip_boxes(box, target.image_size))
            refined = refined[refined.nonempty()]
            classes, matches = self.label_boxes(refined, target, matcher)
            gt_boxes = target.gt_boxes[matches] if len(target) else Boxes(torch.zeros_like(refined.tensor))
            labelled.append(
                Instances(target.image_size, proposal_boxes=refined, gt_classes=classes, gt_boxes=gt_boxes)
            )
        return labelled


def _check_cascade_options(cfg: CfgNode) -> None:
    cascade, heads = cfg.MODEL.ROI_BOX_CASCADE_HEAD, cfg.MODEL.ROI_HEADS
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise ConfigError(
            "a cascade needs class-agnostic box regression",
            got="MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG: False",
            expected="MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG: True",
            remedy="set it to True",
        )
    if cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES:
        raise ConfigError(
            "unsupported option with a cascade",
            got="MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES: True",
            expected="MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES: False",
            remedy="set it to False",
        )
    if not cascade.IOUS or len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
        raise ConfigError(
            "a cascade needs an IoU threshold and box weights for each stage",
            got=f"MODEL.ROI_BOX_CASCADE_HEAD: {len(cascade.IOUS)} IOUS, "
            f"{len(cascade.BBOX_REG_WEIGHTS)} BBOX_REG_WEIGHTS",
            expected="as many of both, at least one",
            remedy="give both lists one entry for each stage",
        )
    if [cascade.IOUS[0]] != list(heads.IOU_THRESHOLDS):
        raise ConfigError(
            "the cascade's first stage must use the IoU threshold of the proposal sampling",
            got=f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS: {list(cascade.IOUS)}, "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS: {list(heads.IOU_THRESHOLDS)}",
            expected="the first of IOUS as the only threshold",
            remedy="correct one of the two",
        )


class _ClippedPool(nn.Module):
    """L levels, boxes, image -> clipped boxes, their pooled features."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.pooler = own_methods(pooler)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        boxes = clip_boxes(tensors[-2], size_of(tensors[-1]))
        return [boxes, self.pooler.pool([level.contiguous() for level in tensors[:-2]], [boxes])]


class _CascadeBoxes(nn.Module):
    """logits, box deltas, boxes of the stage -> scores, refined boxes."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = own_methods(predictor)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.predictor.probabilities(tensors[0]), self.predictor.decode(tensors[1], tensors[2])]


class _CascadeInference(nn.Module):
    """scores of all stages, last boxes, image -> boxes, scores, classes."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = own_methods(predictor)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        stages = tensors[:-2]
        total = stages[0]
        for scores in stages[1:]:
            total = total + scores
        mean = total * (1.0 / len(stages))
        boxes, best, classes = self.predictor.select(tensors[-2], mean, size_of(tensors[-1]))
        return [boxes, best, classes]
