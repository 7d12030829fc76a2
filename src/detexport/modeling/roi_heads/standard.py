"""ROI heads of models with a feature pyramid: a box head and optional mask and keypoint heads.

Shapes: R proposals, D detections of an image, K classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import torch
from torch import Tensor

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.alias_of import alias_of
from detexport.modeling.graph import GraphMethods, replaced_methods
from detexport.modeling.graph_segment import Kind, Segment, maps, rows
from detexport.modeling.poolers import ROIPooler, pooling_segment
from detexport.modeling.registries import ROI_HEADS_REGISTRY
from detexport.modeling.roi_heads.base import (
    ROIHeads,
    build_pooler,
    completed,
    detections_as_instances,
    level_shapes,
    pooled_shape,
    split_by_image,
)
from detexport.modeling.roi_heads.box_head import box_head_segment, build_box_head
from detexport.modeling.roi_heads.fast_rcnn import (
    BoxInference,
    FastRCNNOutputLayers,
    box_inference_segment,
    predictor_methods,
)
from detexport.modeling.roi_heads.keypoint_head import (
    BaseKeypointRCNNHead,
    build_keypoint_head,
    heatmaps_to_keypoints,
    keypoint_segments,
)
from detexport.modeling.roi_heads.mask_head import build_mask_head, mask_head_segments
from detexport.structures import Boxes, Instances


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Box, mask and keypoint heads over shared feature maps, each with its own pooler.

    Args:
        box_in_features: names of the levels.
        box_pooler: pools the features of the proposals.
        box_head: pooled features -> vectors.
        box_predictor: vectors -> logits and box deltas.
        mask_in_features: the same names, or None.
        mask_pooler: pools the features of the detections; None without masks, and if the mask head reads the
            feature maps.
        mask_head: predicts masks; None for no masks.
        keypoint_in_features: the same names, or None.
        keypoint_pooler: pools the features of the detections; None for no keypoints.
        keypoint_head: predicts heatmaps; None for no keypoints.
        train_on_pred_boxes: train the mask and keypoint heads on predicted boxes instead of proposals.
        **options: see ``ROIHeads``.
    """

    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        box_predictor_type: Any
    box_predictor_type = FastRCNNOutputLayers
    box_in_features = alias_of("in_features")
    mask_in_features = alias_of("in_features")
    keypoint_in_features = alias_of("in_features")

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: Any,
        box_predictor: Any,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: Any = None,
        keypoint_in_features: Sequence[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: Any = None,
        train_on_pred_boxes: bool = False,
        **options: Any,
    ) -> None:
        for names in (mask_in_features, keypoint_in_features):
            if names is not None and list(names) != list(box_in_features):
                raise ConfigError(
                    "all heads pool from the same feature maps",
                    got=list(names),
                    expected=list(box_in_features),
                    remedy="leave the in_features of masks and keypoints out, or give those of boxes",
                )
        super().__init__(in_features=box_in_features, **options)
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.mask_on = mask_head is not None
        self.keypoint_pooler = keypoint_pooler
        self.keypoint_head = keypoint_head
        self.keypoint_on = keypoint_head is not None
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:  # type: ignore[override]
        """Return the constructor arguments for a configuration."""
        options = super().from_config(cfg)
        options["train_on_pred_boxes"] = cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES
        options |= cls._init_box_head(cfg, input_shape)
        if cfg.MODEL.MASK_ON:
            options |= cls._init_mask_head(cfg, input_shape)
        if cfg.MODEL.KEYPOINT_ON:
            options |= cls._init_keypoint_head(cfg, input_shape)
        return options

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the box head; extensions override this."""
        box = cfg.MODEL.ROI_BOX_HEAD
        if (box.POOLER_TYPE == "ROIAlignRotated") != (cls.box_dim == 5):
            raise ConfigError(
                f"the pooler does not fit {cls.__name__}",
                got=f"MODEL.ROI_BOX_HEAD.POOLER_TYPE: {box.POOLER_TYPE}",
                expected="ROIAlignRotated" if cls.box_dim == 5 else "ROIAlignV2, ROIAlign or ROIPool",
                remedy="use ROIAlignRotated with RROIHeads, and only with it",
            )
        channels, strides = level_shapes(cfg, input_shape)
        box_head = build_box_head(cfg, pooled_shape(box, channels))
        return {
            "box_in_features": tuple(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "box_pooler": build_pooler(box, strides),
            "box_head": box_head,
            "box_predictor": cls.box_predictor_type(cfg, box_head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the mask head; extensions override this."""
        mask = cfg.MODEL.ROI_MASK_HEAD
        channels, strides = level_shapes(cfg, input_shape)
        if mask.POOLER_TYPE:
            return {
                "mask_pooler": build_pooler(mask, strides),
                "mask_head": build_mask_head(cfg, pooled_shape(mask, channels)),
            }
        levels = {name: input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES}
        return {"mask_head": build_mask_head(cfg, levels)}

    @classmethod
    def _init_keypoint_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of the keypoint head; extensions override this."""
        keypoint = cfg.MODEL.ROI_KEYPOINT_HEAD
        channels, strides = level_shapes(cfg, input_shape)
        return {
            "keypoint_pooler": build_pooler(keypoint, strides),
            "keypoint_head": build_keypoint_head(cfg, pooled_shape(keypoint, channels)),
        }

    @torch.jit.unused
    def final_predictor(self) -> FastRCNNOutputLayers:
        """Return the box predictor, which selects the detections."""
        return self.box_predictor

    def detect(
        self,
        features: Dict[str, Tensor],
        proposals: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Compute the detections of each image by field.

        The fields are ``pred_boxes``, ``scores``, ``pred_classes`` and, depending on the heads,
        ``pred_masks``, ``pred_keypoints`` and ``pred_keypoint_heatmaps``.

        Args:
            features: feature maps by name.
            proposals: one (R, 4) per image, XYXY in px.
            image_sizes: height and width of each image in px.
        """
        # Once here: otherwise each pooler would copy a feature map that is not contiguous.
        levels = [features[name].contiguous() for name in self.in_features]
        results = self.add_masks(levels, self.detect_boxes(levels, proposals, image_sizes))
        return self.add_keypoints(levels, results, image_sizes)

    def detect_boxes(
        self,
        levels: List[Tensor],
        proposals: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Compute ``pred_boxes``, ``scores`` and ``pred_classes`` of each image."""
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler.pool(levels, proposals)))
        image_logits = split_by_image(logits, proposals)
        image_deltas = split_by_image(deltas, proposals)
        results: List[Dict[str, Tensor]] = []
        for index in range(len(proposals)):
            boxes, scores, classes = self.box_predictor.detect(
                image_logits[index], image_deltas[index], proposals[index], image_sizes[index]
            )
            results.append({"pred_boxes": boxes, "scores": scores, "pred_classes": classes})
        return results

    @torch.jit.unused
    def graph_methods(self) -> GraphMethods:
        """Return the documented methods of the heads and the predictors that a graph replaces."""
        return [
            *super().graph_methods(),
            (self, "_forward_box", "detect_boxes"),
            (self, "_forward_keypoint", "add_keypoints"),
            *self.keypoint_head_methods(),
            *self.predictor_methods(),
        ]

    @torch.jit.unused
    def keypoint_head_methods(self) -> GraphMethods:
        """Return the documented method of a keypoint head that a graph replaces."""
        head = self.keypoint_head
        return [(head, "forward", "layers")] if isinstance(head, BaseKeypointRCNNHead) else []

    @torch.jit.unused
    def predictor_methods(self) -> GraphMethods:
        """Return the documented methods of the predictor that a graph replaces."""
        return predictor_methods(self.box_predictor)

    @torch.jit.unused
    def detect_instances(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Return the detections of each image; by the documented methods if one of them is overridden."""
        if not replaced_methods(self.graph_methods()):
            return super().detect_instances(features, proposals)
        return self.forward_with_given_boxes(features, self._forward_box(features, proposals))

    @torch.jit.unused
    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Return copies of detections with the masks and keypoints that the heads predict for their boxes."""
        return self._forward_keypoint(features, super().forward_with_given_boxes(features, instances))

    @torch.jit.unused
    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        """Return the detections of each image without masks and keypoints, or in training the box losses.

        Args:
            features: feature maps by name.
            proposals: ``proposal_boxes`` of each image; in training with the ground truth.
        """
        levels = self.levels_of(features)
        if self.training:
            return self.box_losses(levels, proposals, [])
        if not replaced_methods(self.predictor_methods()):
            sizes = [one.image_size for one in proposals]
            found = self.detect_boxes(levels, [one.proposal_boxes.tensor for one in proposals], sizes)
            return [detections_as_instances(*one) for one in zip(found, sizes, strict=True)]
        pooled = self.box_pooler(levels, [one.proposal_boxes for one in proposals])
        return self.box_predictor.inference(self.box_predictor(self.box_head(pooled)), proposals)[0]

    @torch.jit.unused
    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        """Return the detections with keypoints, or in training the keypoint loss of the foreground."""
        levels, documented = self.levels_of(features), replaced_methods(self.keypoint_head_methods())
        if not self.training and not documented:
            return completed(instances, lambda given, sizes: self.add_keypoints(levels, given, sizes))
        if self.keypoint_pooler is None or self.keypoint_head is None:
            return {}
        kept = self.foreground(instances) if self.training else instances
        boxes = [one.proposal_boxes if self.training else one.pred_boxes for one in kept]
        pooled = self.keypoint_pooler(levels, boxes)
        if documented:
            return self.keypoint_head(pooled, kept)
        return self.keypoint_head.losses(self.keypoint_head(pooled), kept)

    def mask_features(self, levels: List[Tensor], boxes: List[Tensor]) -> List[Tensor]:
        """Return the inputs of the mask head: pooled features or, without a pooler, the feature maps."""
        if self.mask_pooler is not None:
            levels = [self.mask_pooler.pool(levels, boxes)]
        return levels

    def add_keypoints(
        self,
        levels: List[Tensor],
        detections: List[Dict[str, Tensor]],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Add ``pred_keypoints`` (D, K, 3) and ``pred_keypoint_heatmaps`` (D, K, S, S), the logits."""
        if self.keypoint_pooler is not None and self.keypoint_head is not None:
            boxes = [fields["pred_boxes"] for fields in detections]
            heatmaps = split_by_image(self.keypoint_head(self.keypoint_pooler.pool(levels, boxes)), boxes)
            for index in range(len(detections)):
                detections[index]["pred_keypoint_heatmaps"] = heatmaps[index]
                detections[index]["pred_keypoints"] = heatmaps_to_keypoints(
                    heatmaps[index], boxes[index], image_sizes[index]
                )
        return detections

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the box head, then those of the mask and keypoint heads."""
        return [
            pooling_segment("box_pooled", self.box_pooler, maps(*self.in_features), "proposal_boxes"),
            box_head_segment("box", self.box_head, self.box_predictor),
            box_inference_segment(BoxInference(self.box_predictor)),
            *self.instance_segments(),
        ]

    @torch.jit.unused
    def instance_segments(self) -> list[Segment]:
        """Return the segments of the mask and keypoint heads, if any."""
        levels, segments = maps(*self.in_features), []
        if self.mask_pooler is not None:
            segments.append(pooling_segment("mask_pooled", self.mask_pooler, levels, "pred_boxes"))
            segments += mask_head_segments(self.mask_head, rows("mask_pooled"), Kind.VALUES)
        elif self.mask_head is not None:
            segments += mask_head_segments(self.mask_head, levels, Kind.CHOICES)
        if self.keypoint_pooler is not None:
            segments += keypoint_segments(self.keypoint_pooler, self.keypoint_head, levels)
        return segments

    @torch.jit.unused
    def losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses of the box head and, over the foreground, of the mask and keypoint heads."""
        return {
            **self._forward_box(features, proposals),
            **self._forward_mask(features, proposals),
            **self._forward_keypoint(features, proposals),
        }

    @torch.jit.unused
    def box_losses(
        self, levels: list[Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute ``loss_cls`` and ``loss_box_reg`` of the sampled proposals.

        With ``train_on_pred_boxes``, replace ``proposal_boxes`` by the predicted boxes.
        """
        pooled = self.box_pooler(levels, [instances.proposal_boxes for instances in proposals])
        outputs = self.box_predictor(self.box_head(pooled))
        losses = self.box_predictor.losses(outputs, proposals)
        if self.train_on_pred_boxes:
            predicted = self.box_predictor.predict_boxes_for_gt_classes(outputs, proposals)
            for instances, boxes in zip(proposals, predicted, strict=True):
                instances.proposal_boxes = Boxes(boxes)
        return losses
