"""ROI heads of models without a feature pyramid (C4): res5 runs on the pooled features of each box.

Shapes: R proposals, D detections of an image, K classes.
"""

import math
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling.backbone.resnet import configured_stages
from detexport.modeling.graph import GraphMethods, replaced_methods
from detexport.modeling.graph_segment import Kind, Segment, maps, own_methods, rows
from detexport.modeling.poolers import ROIPooler
from detexport.modeling.registries import ROI_HEADS_REGISTRY
from detexport.modeling.roi_heads.base import (
    ROIHeads,
    build_pooler,
    level_shapes,
    sampling_options,
    split_by_image,
)
from detexport.modeling.roi_heads.fast_rcnn import (
    BoxInference,
    FastRCNNOutputLayers,
    box_inference_segment,
    predictor_methods,
)
from detexport.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    build_mask_head,
    mask_head_segments,
)
from detexport.structures import Instances


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """Box predictor on the mean, mask head on the map, of res5's features of a box.

    Args:
        pooler: pools the features of a box, the input of res5.
        res5: the last stage of the ResNet, a module or a list of blocks.
        box_predictor: predicts logits and box deltas.
        mask_head: predicts masks; None for no masks.
        **options: see ``ROIHeads``.
    """

    @configurable
    def __init__(
        self,
        *,
        pooler: ROIPooler,
        res5: Any,
        box_predictor: FastRCNNOutputLayers,
        mask_head: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.pooler = pooler
        self.res5 = nn.Sequential(*res5) if isinstance(res5, list | tuple) else res5
        self.box_predictor = box_predictor
        self.mask_head = mask_head
        self.mask_on = mask_head is not None
        if isinstance(mask_head, MaskRCNNConvUpsampleHead) and isinstance(self.res5, nn.Sequential):
            # Lazy configurations give the side before res5 as the head's input.
            stride = math.prod(getattr(block, "stride", 1) for block in self.res5)
            mask_head.resolution = 2 * ((pooler.output_size + stride - 1) // stride)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:  # type: ignore[override]
        """Return the constructor arguments for a configuration."""
        _check_res5_options(cfg)
        box = cfg.MODEL.ROI_BOX_HEAD
        channels, strides = level_shapes(cfg, input_shape)
        # Three bottlenecks for every backbone: those of ResNet-50, also for ResNet-18 and 34.
        stages = configured_stages(cfg, last_stage="res5", depth=50)
        if channels != stages["res4"][-1].out_channels:
            raise ConfigError(
                "the input of res5 must be res4",
                got=f"MODEL.ROI_HEADS.IN_FEATURES: {list(cfg.MODEL.ROI_HEADS.IN_FEATURES)}",
                expected="res4, as the heads' only feature map",
                remedy="set MODEL.ROI_HEADS.IN_FEATURES: [res4]",
            )
        res5_channels = stages["res5"][-1].out_channels
        mask_head = None
        if cfg.MODEL.MASK_ON:
            side = (box.POOLER_RESOLUTION + 1) // 2
            mask_head = build_mask_head(cfg, ShapeSpec(res5_channels, height=side, width=side))
        return {
            "in_features": tuple(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "pooler": build_pooler(box, strides),
            "res5": nn.Sequential(*stages["res5"]),
            "box_predictor": FastRCNNOutputLayers(cfg, ShapeSpec(res5_channels)),
            "mask_head": mask_head,
            **sampling_options(cfg),
        }

    @torch.jit.unused
    def final_predictor(self) -> FastRCNNOutputLayers:
        """Return the box predictor, which selects the detections."""
        return self.box_predictor

    def shared_features(self, levels: List[Tensor], boxes: List[Tensor]) -> Tensor:
        """Compute res5's features (sum R, C, S, S) of boxes (R, 4) per image, in evaluation mode.

        An empty box is appended and its features are removed again: ``torch.export`` cannot record a
        normalization of possibly zero boxes.
        """
        padded = boxes[:-1] + [F.pad(boxes[-1], [0, 0, 0, 1])]  # noqa: RUF005 - TorchScript supports no unpacking
        return self.res5(self.pooler.pool(levels, padded))[:-1]

    def detect(
        self,
        features: Dict[str, Tensor],
        proposals: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Compute ``pred_boxes``, ``scores``, ``pred_classes`` and, if any, ``pred_masks`` of each image.

        Args:
            features: feature maps by name.
            proposals: one (R, 4) per image, XYXY in px.
            image_sizes: height and width of each image in px.
        """
        levels = [features[name] for name in self.in_features]
        logits, deltas = self.box_predictor(self.shared_features(levels, proposals).mean(dim=[2, 3]))
        image_logits = split_by_image(logits, proposals)
        image_deltas = split_by_image(deltas, proposals)
        results: List[Dict[str, Tensor]] = []
        for index in range(len(proposals)):
            boxes, scores, classes = self.box_predictor.detect(
                image_logits[index], image_deltas[index], proposals[index], image_sizes[index]
            )
            results.append({"pred_boxes": boxes, "scores": scores, "pred_classes": classes})
        return self.add_masks(levels, results)

    @torch.jit.unused
    def graph_methods(self) -> GraphMethods:
        """Return the documented methods of the heads and the predictor that a graph replaces."""
        return [*super().graph_methods(), *predictor_methods(self.box_predictor)]

    @torch.jit.unused
    def detect_instances(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Return the detections of each image; by the documented methods if one of them is overridden."""
        if not replaced_methods(self.graph_methods()):
            return super().detect_instances(features, proposals)
        levels = [features[name] for name in self.in_features]
        shared = self.shared_features(levels, [one.proposal_boxes.tensor for one in proposals])
        found, _ = self.box_predictor.inference(self.box_predictor(shared.mean(dim=[2, 3])), proposals)
        return self.forward_with_given_boxes(features, found)

    def mask_features(self, levels: List[Tensor], boxes: List[Tensor]) -> List[Tensor]:
        """Return the input of the mask head: see ``shared_features``."""
        return [self.shared_features(levels, boxes)]

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of ``detect``: res5 runs once on the proposals and once on the detections."""
        return [
            *self.shared_segments("box", "proposal_boxes"),
            Segment(
                "box_head",
                _MeanPredictor(self.box_predictor),
                rows("box_res5"),
                rows("box_logits", "box_deltas"),
            ),
            box_inference_segment(BoxInference(self.box_predictor)),
            *(self.mask_segments() if self.mask_head is not None else []),
        ]

    @torch.jit.unused
    def shared_segments(self, name: str, boxes: str) -> list[Segment]:
        """Return two segments for the ``shared_features`` of the boxes ``boxes``."""
        pooled, inputs = rows(f"{name}_pooled"), (*maps(*self.in_features), *rows(boxes))
        return [
            Segment(f"{name}_pooled", _PoolWithEmpty(self.pooler), inputs, pooled),
            Segment(f"{name}_res5", _WithoutEmpty(self.res5), pooled, rows(f"{name}_res5")),
        ]

    @torch.jit.unused
    def mask_segments(self) -> list[Segment]:
        """Return the segments of the mask head."""
        return [
            *self.shared_segments("mask", "pred_boxes"),
            *mask_head_segments(self.mask_head, rows("mask_res5"), Kind.VALUES),
        ]

    @torch.jit.unused
    def losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute the box losses and, over the foreground, the mask loss, from one pass of res5."""
        levels = [features[name] for name in self.in_features]
        shared = self.res5(self.pooler(levels, [instances.proposal_boxes for instances in proposals]))
        losses = self.box_predictor.losses(self.box_predictor(shared.mean(dim=[2, 3])), proposals)
        if self.mask_head is not None:
            classes = torch.cat([instances.gt_classes for instances in proposals])
            inside = shared[classes < self.num_classes]
            losses.update(self.mask_head.losses([inside], self.foreground(proposals)))
        return losses


def _check_res5_options(cfg: CfgNode) -> None:
    wanted = {
        "MODEL.RESNETS.RES5_DILATION": 1,
        "MODEL.KEYPOINT_ON": False,
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": False,
    }
    found = {
        "MODEL.RESNETS.RES5_DILATION": cfg.MODEL.RESNETS.RES5_DILATION,
        "MODEL.KEYPOINT_ON": cfg.MODEL.KEYPOINT_ON,
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
    }
    for key, value in wanted.items():
        if found[key] != value:
            raise ConfigError(
                "unsupported option with Res5ROIHeads",
                got=f"{key}: {found[key]}",
                expected=f"{key}: {value}",
                remedy=f"set {key}: {value}, or choose StandardROIHeads",
            )
    if len(cfg.MODEL.ROI_HEADS.IN_FEATURES) != 1:
        raise ConfigError(
            "unsupported number of feature maps with Res5ROIHeads",
            got=f"MODEL.ROI_HEADS.IN_FEATURES: {list(cfg.MODEL.ROI_HEADS.IN_FEATURES)}",
            expected="one, such as res4",
            remedy="name one in MODEL.ROI_HEADS.IN_FEATURES",
        )


class _PoolWithEmpty(nn.Module):
    """a level, boxes -> pooled features, with those of an empty box: see ``Res5ROIHeads.shared_features``."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.pooler = own_methods(pooler)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.pooler.pool(tensors[:-1], [F.pad(tensors[-1], [0, 0, 0, 1])])]


class _WithoutEmpty(nn.Module):
    """pooled features, with those of an empty box -> res5's features without it."""

    def __init__(self, res5: nn.Module) -> None:
        super().__init__()
        self.res5 = res5

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.res5(tensors[0])[:-1]]


class _MeanPredictor(nn.Module):
    """res5's features of each box -> logits and box deltas."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        logits, deltas = self.predictor(tensors[0].mean(dim=[2, 3]))
        return [logits, deltas]
