"""PointRend's mask heads: predict a small mask, then upsample it and predict its uncertain cells again.

Shapes: R boxes, P points per box, C channels, K classes, grids of S x S cells.
"""

import math
from typing import Any, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.conv import Conv2d, init_conv_msra, init_normal, init_xavier
from detexport.modeling.graph_segment import Kind, Port, Segment, own_methods, rows
from detexport.modeling.point_rend.point_head import build_point_head, check_num_classes
from detexport.modeling.point_rend.sampling import (
    PointPooler,
    PointSampling,
    cell_centres,
    draw_uniformly,
    point_sampling,
    points_in_image,
    regular_grid,
    sample,
)
from detexport.modeling.registries import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detexport.modeling.roi_heads.base import split_by_image
from detexport.modeling.roi_heads.mask_head import class_logits, mask_loss
from detexport.modeling.roi_heads.standard import StandardROIHeads
from detexport.structures import BitMasks, Instances
from detexport.utils.events import record

# Name of the ROI heads in older configurations.
ROI_HEADS_REGISTRY.register(StandardROIHeads, name="PointRendROIHeads")


class ConvFCHead(nn.Sequential):
    """Convolutions that halve a box's features, then fully connected layers.

    Args:
        input_shape: shape of the pooled features; height and width are even.
        conv_dim: channels of the halved map.
        fc_dims: channels of the layers ``fc1``, ``fc2``, ...
        output_shape: shape of the output per box.
    """

    def __init__(
        self, input_shape: ShapeSpec, *, conv_dim: int, fc_dims: list[int], output_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, side = input_shape.channels, input_shape.height or 1
        if channels > conv_dim:
            self.reduce_channel_dim_conv = Conv2d(channels, conv_dim, 1, relu=True)
            init_conv_msra(self.reduce_channel_dim_conv)
            channels = conv_dim
        self.reduce_spatial_dim_conv = Conv2d(channels, conv_dim, 2, stride=2, relu=True)
        init_conv_msra(self.reduce_spatial_dim_conv)
        self.flatten = nn.Flatten()
        channels = conv_dim * (side // 2) ** 2
        for index, dim in enumerate(fc_dims, start=1):
            linear = nn.Linear(channels, dim)
            init_xavier(linear)
            self.add_module(f"fc{index}", linear)
            self.add_module(f"fc_relu{index}", nn.ReLU())
            channels = dim
        self.prediction = nn.Linear(channels, math.prod(output_shape))
        init_normal(self.prediction, std=0.001)
        self.output_shape: List[int] = list(output_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return (R, *output_shape) for pooled features (R, C, S, S)."""
        for layer in self:
            x = layer(x)
        return x.reshape([-1] + self.output_shape)  # noqa: RUF005 - TorchScript supports no unpacking


class PointMaskHead(nn.Module):
    """Base class of the point-based mask heads; a subclass adds ``forward``, ``point_logits`` and ``losses``.

    Args:
        box_pooler: samples the features of a box, one point per cell.
        box_side: cells per side of these features.
        first_side: cells per side of the first mask; each step doubles it. Steps that would predict every
            cell again are merged into the first.
        sampling: sampling of points in training.
        point_pooler: samples the features of points; None without a point head.
        point_head: predicts the logits of points.
        steps: number of subdivision steps.
        num_points: cells that each step predicts again.
    """

    cells: Tensor
    first_grid: Tensor
    point_logits: Any

    def __init__(
        self,
        *,
        box_pooler: PointPooler,
        box_side: int,
        first_side: int,
        sampling: PointSampling,
        point_pooler: Any = None,
        point_head: Any = None,
        steps: int = 0,
        num_points: int = 0,
    ) -> None:
        super().__init__()
        self.box_pooler = box_pooler
        self.box_side = box_side
        self.point_pooler = point_pooler
        self.point_head = point_head
        # Steps below this size would predict every cell again.
        while steps > 0 and 4 * first_side**2 <= num_points:
            first_side, steps = 2 * first_side, steps - 1
        self.first_side = first_side
        self.steps = steps
        self.num_points = num_points
        self.sampling = sampling
        self.resolution = first_side * 2**steps
        self.register_buffer("cells", regular_grid(box_side), persistent=False)
        self.register_buffer("first_grid", regular_grid(first_side), persistent=False)

    def masks(self, features: List[Tensor], boxes: List[Tensor], classes: Tensor) -> Tensor:
        """Return the mask probabilities (sum R, S, S) of each detection's class."""
        return self(features, boxes, classes).sigmoid()

    def pool_boxes(self, features: List[Tensor], boxes: List[Tensor]) -> Tensor:
        """Sample the features (sum R, C, S, S) at the centres of a grid over each box."""
        rows = torch.cat(boxes).shape[0]
        pooled = self.box_pooler(features, boxes, self.cells.expand(rows, -1, -1))
        return pooled.reshape(-1, self.box_pooler.channels, self.box_side, self.box_side)

    def subdivide(
        self, features: List[Tensor], boxes: List[Tensor], classes: Tensor, context: Tensor
    ) -> Tensor:
        """Predict a small mask, then repeat: upsample it by 2 and predict its most uncertain cells again.

        Args:
            features: one (N, C, H, W) per level.
            boxes: one (R, 4) per image, XYXY in px.
            classes: (sum R,) int64, class of each mask.
            context: input of ``point_logits`` per box.

        Returns:
            (sum R, S, S) logits.
        """
        side = self.first_side
        grid = self.first_grid.expand(classes.shape[0], -1, -1)
        logits = class_logits(self.point_logits(features, boxes, grid, context), classes)
        for _ in range(self.steps):
            coarse = logits.reshape(-1, 1, side, side)
            finer = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
            side = 2 * side
            logits = finer.flatten(1)
            uncertain = logits.abs().neg().topk(self.num_points, dim=1).indices
            points = cell_centres(uncertain, side, side)
            again = class_logits(self.point_logits(features, boxes, points, context), classes)
            logits = logits.scatter(1, uncertain, again)
        return logits.reshape(-1, self.resolution, self.resolution)

    @torch.jit.unused
    def point_loss(self, logits: Tensor, points: Tensor, instances: list[Instances]) -> Tensor:
        """Return the binary cross entropy of the logits of ``gt_classes`` and ``gt_masks`` at points.

        Args:
            logits: (R, K or 1, P).
            points: (R, P, 2) relative to the boxes.
            instances: see ``losses``.
        """
        if len(logits) == 0:
            return logits.sum() * 0
        classes = torch.cat([image.gt_classes for image in instances])
        target = masks_at_points(instances, points)
        own = class_logits(logits, classes)
        record("point/accuracy", lambda: ((own > 0) == (target > 0.5)).float().mean())
        return F.binary_cross_entropy_with_logits(own, target)


def masks_at_points(instances: list[Instances], points: Tensor) -> Tensor:
    """Sample ``gt_masks`` at points (R, P, 2) relative to the boxes: (R, P) in [0, 1].

    Raises:
        ConfigError: the masks are not bitmaps.
    """
    labels = []
    boxes = [image.proposal_boxes.tensor for image in instances]
    for image, box, inside in zip(instances, boxes, split_by_image(points, boxes), strict=True):
        if not len(image):
            continue
        if not isinstance(image.gt_masks, BitMasks):
            raise ConfigError(
                "PointRend trains on bitmap masks",
                got=f"gt_masks as {type(image.gt_masks).__name__}",
                expected="INPUT.MASK_FORMAT: bitmask",
                remedy="set INPUT.MASK_FORMAT: bitmask",
            )
        height, width = image.gt_masks.image_size
        relative = points_in_image(box, inside) / points.new_tensor([width, height])
        labels.append(sample(image.gt_masks.tensor[:, None].to(points.dtype), relative)[:, 0])
    return torch.cat(labels)


class PointRendMaskHead(PointMaskHead):
    """A coarse mask head, and a point head that refines the mask from finer features.

    Args:
        coarse_head: pooled features of a box -> (K, S, S) logits.
        **options: see ``PointMaskHead``; without a point head, the coarse masks are the output.
    """

    def __init__(self, *, coarse_head: Any, **options: Any) -> None:
        super().__init__(**options)
        self.coarse_head = coarse_head

    def forward(self, features: List[Tensor], boxes: List[Tensor], classes: Tensor) -> Tensor:
        """Return the mask logits of detections.

        Args:
            features: one (N, C, H, W) per level.
            boxes: one (R, 4) per image, XYXY in px.
            classes: (sum R,) int64.

        Returns:
            (sum R, S, S) logits of each detection's class in a grid over its box.
        """
        coarse = self.coarse_head(self.pool_boxes(features, boxes))
        if self.point_head is not None:
            logits = self.subdivide(features, boxes, classes, coarse)
        else:
            own = class_logits(coarse.flatten(2), classes)
            logits = own.reshape(-1, self.resolution, self.resolution)
        return logits

    def point_logits(
        self, features: List[Tensor], boxes: List[Tensor], points: Tensor, context: Tensor
    ) -> Tensor:
        """Return logits (R, K or 1, P) at points (R, P, 2) in the boxes; ``context``: coarse masks."""
        return self.point_head(self.point_pooler(features, boxes, points), sample(context, points))

    @torch.jit.unused
    def losses(self, features: list[Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        """Compute ``loss_mask`` of the coarse masks and ``loss_mask_point`` of sampled points.

        Args:
            features: one (N, C, H, W) per level.
            instances: ``proposal_boxes``, ``gt_classes`` and ``gt_masks`` of the foreground proposals of each
                image.
        """
        boxes = [image.proposal_boxes.tensor for image in instances]
        coarse = self.coarse_head(self.pool_boxes(features, boxes))
        losses = {"loss_mask": mask_loss(coarse, instances)}
        if self.point_head is not None:
            classes = torch.cat([image.gt_classes for image in instances])
            points = self.sampling.draw(coarse, lambda logits: -class_logits(logits, classes).abs())
            logits = self.point_logits(features, boxes, points, coarse)
            losses["loss_mask_point"] = self.point_loss(logits, points, instances)
        return losses

    @torch.jit.unused
    def segments(self, features: tuple[Port, ...]) -> list[Segment]:
        """Return two segments, coarse masks and their refinement, or an empty list without a point head."""
        if self.point_head is None:
            return []
        coarse = rows("coarse_masks")
        seen = features[: max(self.box_pooler.places) + 1]
        refined = (*features[: max(self.point_pooler.places) + 1], *rows("pred_boxes", "pred_classes"))
        return [
            Segment("coarse_mask_head", _CoarseMasks(self), (*seen, *rows("pred_boxes")), coarse),
            Segment("point_head", _PointMasks(self), (*refined, *coarse), rows("pred_masks"), Kind.CHOICES),
        ]


class _CoarseMasks(nn.Module):
    """L levels, boxes -> coarse masks of all classes."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = own_methods(head, "box_pooler", "coarse_head")

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.head.coarse_head(self.head.pool_boxes(tensors[:-1], [tensors[-1]]))]


class _PointMasks(nn.Module):
    """L levels, boxes, classes, coarse masks -> the refined mask of each box."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = own_methods(head, "point_pooler", "point_head")

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        logits = self.head.subdivide(tensors[:-3], [tensors[-3]], tensors[-2], tensors[-1])
        return [logits.sigmoid()]


class ImplicitPointRendMaskHead(PointMaskHead):
    """Implicit PointRend: predicts the parameters of a network per box, which predicts the logits of points.

    Args:
        parameter_head: pooled features of a box -> (num_params,).
        regularizer: weight of the parameters' mean square in the loss.
        **options: see ``PointMaskHead``; its ``point_head`` runs the networks.
    """

    def __init__(self, *, parameter_head: Any, regularizer: float, **options: Any) -> None:
        super().__init__(**options)
        self.parameter_head = parameter_head
        self.regularizer = regularizer

    def forward(self, features: List[Tensor], boxes: List[Tensor], classes: Tensor) -> Tensor:
        """Return the mask logits of detections: see ``PointRendMaskHead.forward``."""
        parameters = self.parameter_head(self.pool_boxes(features, boxes))
        return self.subdivide(features, boxes, classes, parameters)

    def point_logits(
        self, features: List[Tensor], boxes: List[Tensor], points: Tensor, context: Tensor
    ) -> Tensor:
        """Return logits (R, K or 1, P) at points (R, P, 2) in the boxes; ``context``: parameters (R, D)."""
        return self.point_head(self.point_pooler(features, boxes, points), points, context)

    @torch.jit.unused
    def losses(self, features: list[Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        """Compute ``loss_mask_point`` at uniformly sampled points, and ``loss_l2`` of the parameters.

        Args:
            features: see ``PointRendMaskHead.losses``.
            instances: see ``PointRendMaskHead.losses``.
        """
        boxes = [image.proposal_boxes.tensor for image in instances]
        parameters = self.parameter_head(self.pool_boxes(features, boxes))
        points = draw_uniformly(parameters, self.sampling.num_points)
        logits = self.point_logits(features, boxes, points, parameters)
        mean_square = parameters.square().sum() / max(parameters.numel(), 1)
        return {
            "loss_l2": self.regularizer * mean_square,
            "loss_mask_point": self.point_loss(logits, points, instances),
        }


@ROI_MASK_HEAD_REGISTRY.register(name="PointRendMaskHead")
def build_point_rend_mask_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> PointRendMaskHead:
    """Build PointRend's mask head from a configuration."""
    node = cfg.MODEL.ROI_MASK_HEAD
    _check_options(cfg, input_shape, implicit=False)
    options = _box_options(cfg, input_shape)
    if node.POINT_HEAD_ON:
        options |= _point_options(cfg, input_shape)
    side = node.OUTPUT_SIDE_RESOLUTION
    coarse_head = _box_network(cfg, options, (cfg.MODEL.ROI_HEADS.NUM_CLASSES, side, side))
    return PointRendMaskHead(coarse_head=coarse_head, **options)


@ROI_MASK_HEAD_REGISTRY.register(name="ImplicitPointRendMaskHead")
def build_implicit_mask_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> ImplicitPointRendMaskHead:
    """Build implicit PointRend's mask head from a configuration."""
    _check_options(cfg, input_shape, implicit=True)
    options = _box_options(cfg, input_shape) | _point_options(cfg, input_shape)
    options["first_side"] = _square_side(cfg.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS)
    point_head = options["point_head"]
    parameter_head = _box_network(cfg, options, (point_head.num_params,))
    with torch.no_grad():
        # A predictor starts near 0; a network with such parameters would have almost no gradient.
        parameter_head.prediction.bias.copy_(point_head.initial_parameters())
    regularizer = cfg.MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER
    return ImplicitPointRendMaskHead(parameter_head=parameter_head, regularizer=regularizer, **options)


def _square_side(num_points: int) -> int:
    """Return the side of the first mask, whose cells are as many as each step predicts.

    Raises:
        ConfigError: ``num_points`` is not a square number.
    """
    side = math.isqrt(max(num_points, 0))
    if side < 1 or side**2 != num_points:
        raise ConfigError(
            "ImplicitPointRendMaskHead first predicts a square of points",
            got=f"MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS: {num_points}",
            expected=f"a square, such as {max(side, 1) ** 2}",
            remedy="correct MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS",
        )
    return side


def _box_options(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
    """Return the arguments of ``PointMaskHead`` without those of the point head."""
    node = cfg.MODEL.ROI_MASK_HEAD
    return {
        "box_pooler": PointPooler(input_shape, node.IN_FEATURES, "MODEL.ROI_MASK_HEAD.IN_FEATURES"),
        "box_side": node.POOLER_RESOLUTION,
        "first_side": node.OUTPUT_SIDE_RESOLUTION,
        "sampling": point_sampling(cfg),
    }


def _point_options(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
    """Return the arguments of ``PointMaskHead`` for the point head."""
    node = cfg.MODEL.POINT_HEAD
    point_pooler = PointPooler(input_shape, node.IN_FEATURES, "MODEL.POINT_HEAD.IN_FEATURES")
    return {
        "point_pooler": point_pooler,
        "point_head": build_point_head(cfg, ShapeSpec(point_pooler.channels)),
        "steps": node.SUBDIVISION_STEPS,
        "num_points": node.SUBDIVISION_NUM_POINTS,
    }


def _box_network(cfg: CfgNode, options: dict[str, Any], output_shape: tuple[int, ...]) -> ConvFCHead:
    """Build the network over a box's pooled features."""
    node, side = cfg.MODEL.ROI_MASK_HEAD, options["box_side"]
    return ConvFCHead(
        ShapeSpec(options["box_pooler"].channels, height=side, width=side),
        conv_dim=node.CONV_DIM,
        fc_dims=[node.FC_DIM] * node.NUM_FC,
        output_shape=output_shape,
    )


def _check_options(cfg: CfgNode, input_shape: Any, *, implicit: bool) -> None:
    """Check that a point-based mask head can be built from a configuration."""
    node, name = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.POINT_HEAD.NAME
    if not isinstance(input_shape, dict):
        raise ConfigError(
            f"{node.NAME} needs feature maps, not pooled features",
            got=f"MODEL.ROI_MASK_HEAD.POOLER_TYPE: {node.POOLER_TYPE!r}, "
            f"MODEL.ROI_HEADS.NAME: {cfg.MODEL.ROI_HEADS.NAME}",
            expected="POOLER_TYPE: '' with StandardROIHeads or CascadeROIHeads",
            remedy="set both as expected",
        )
    if (name == "ImplicitPointHead") != implicit:
        raise ConfigError(
            f"{node.NAME} needs another point head",
            got=f"MODEL.POINT_HEAD.NAME: {name}",
            expected="ImplicitPointHead with ImplicitPointRendMaskHead, and with that alone",
            remedy="correct MODEL.POINT_HEAD.NAME",
        )
    if node.CLS_AGNOSTIC_MASK:
        raise ConfigError(
            f"unsupported option with {node.NAME}",
            got="MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK: True",
            expected="False; MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK shares the points' masks",
            remedy="set MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK: False",
        )
    if node.POOLER_RESOLUTION < 2:
        raise ConfigError(
            f"{node.NAME} halves its features, and they are too small",
            got=f"MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION: {node.POOLER_RESOLUTION}",
            expected="2 or more",
            remedy="correct MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
        )
    check_num_classes(cfg, "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
