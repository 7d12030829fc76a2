"""Keypoint head (He et al. 2017): pooled features of a detection -> one heatmap per keypoint.

Shapes: R detections, K keypoints, S x S cells of a heatmap.
"""

from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.layers import ShapeSpec
from detexport.layers.conv import Conv2d, init_conv_msra
from detexport.modeling.graph_segment import IMAGE_PORT, Kind, Layers, Port, Segment, rows, size_of
from detexport.modeling.poolers import pooling_segment
from detexport.modeling.registries import ROI_KEYPOINT_HEAD_REGISTRY
from detexport.structures import Instances


def build_keypoint_head(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """Build ``cfg.MODEL.ROI_KEYPOINT_HEAD.NAME`` for pooled features of this shape."""
    return ROI_KEYPOINT_HEAD_REGISTRY.build(cfg, input_shape)


def count(like: Tensor, length: int) -> Tensor:
    """Return 0, 1, 2, ... (length,) in the dtype of ``like``.

    It is a cumulative sum of ones, so that a trace contains neither a size nor a device.
    """
    return F.pad(like.sum()[None] * 0, [0, length - 1], value=1.0).cumsum(0)


def positions_below(sizes: Tensor, limit: int) -> Tensor:
    """Return 0, 1, 2, ... below the largest of ``sizes`` (R,), which is at most ``limit``; at least 0."""
    positions = count(sizes, limit)
    return positions[(positions < F.pad(sizes, [0, 1], value=1.0).max()).nonzero()[:, 0]]


def bicubic_weights(sizes: Tensor, positions: Tensor, cells: int) -> Tensor:
    """Return the weights of the cells at each pixel for bicubic resizing to ``sizes`` px, on one axis.

    As in ``interpolate``, a = -0.75 and the outermost cells repeat beyond the edge. Pixels beyond a size
    repeat its last one.

    Args:
        sizes: (R,) px, whole numbers.
        positions: (P,) 0, 1, 2, ...
        cells: cells along the axis.

    Returns:
        (R, P, cells).
    """
    pixel = torch.minimum(positions[None, :], sizes[:, None] - 1)
    # Not cells / sizes: cells is a size, for which eager mode and a trace round differently.
    scale = torch.ones_like(sizes) * cells / sizes
    position = (pixel + 0.5) * scale[:, None] - 0.5
    first = torch.floor(position)
    fraction = position - first
    cell = count(sizes, cells)
    total = torch.zeros_like(position)[:, :, None] * cell
    for tap in range(-1, 3):
        distance = (fraction - tap).abs()
        if tap == -1 or tap == 2:
            weight = ((distance - 5.0) * distance + 8.0) * distance - 4.0
            weight = -0.75 * weight
        else:
            weight = (1.25 * distance - 2.25) * distance * distance + 1.0
        place = (first + tap).clamp(min=0.0, max=cells - 1.0)
        total = total + weight[:, :, None] * (place[:, :, None] == cell).to(weight.dtype)
    return total


def heatmaps_to_keypoints(maps: Tensor, boxes: Tensor, image_size: Tuple[int, int]) -> Tensor:
    """Return the position of the maximum of each heatmap, resized to its box.

    Resizing multiplies by the weights of rows and columns, one keypoint at a time: memory holds at most one
    value per pixel and detection.

    Args:
        maps: (R, K, S, S) logits.
        boxes: (R, 4) XYXY in px, inside the image.
        image_size: height and width in px.

    Returns:
        (R, K, 3): x and y in px, and a score: 1 over the sum of exp(logit - highest).
    """
    cells = maps.shape[2]
    width = (boxes[:, 2] - boxes[:, 0]).clamp(min=1.0)
    height = (boxes[:, 3] - boxes[:, 1]).clamp(min=1.0)
    columns, rows = width.ceil(), height.ceil()
    row_weights = bicubic_weights(rows, positions_below(rows, image_size[0]), cells)
    column_weights = bicubic_weights(columns, positions_below(columns, image_size[1]), cells).transpose(1, 2)
    keypoints = []
    for keypoint in range(maps.shape[1]):
        heatmap = maps[:, keypoint]
        resized = torch.matmul(torch.matmul(row_weights, heatmap), column_weights)
        row_best, row_columns = resized.max(dim=2)
        best, row = row_best.max(dim=1)
        column = row_columns.gather(1, row[:, None])[:, 0]
        # Rounding may make a repeated last pixel higher.
        column_position = torch.minimum(column.to(columns.dtype), columns - 1)
        row_position = torch.minimum(row.to(rows.dtype), rows - 1)
        x = (column_position + 0.5) * (width / columns) + boxes[:, 0]
        y = (row_position + 0.5) * (height / rows) + boxes[:, 1]
        score = 1.0 / (heatmap - best[:, None, None]).exp().sum(dim=[1, 2])
        keypoints.append(torch.stack((x, y, score), dim=1))
    return torch.stack(keypoints, dim=1)


def keypoint_rcnn_loss(
    pred_keypoint_logits: Tensor, instances: list[Instances], normalizer: float | None
) -> Tensor:
    """Compute the cross entropy over the cells of the visible keypoints inside their proposals.

    Args:
        pred_keypoint_logits: (R, K, S, S) of all foreground proposals.
        instances: ``proposal_boxes`` and, if any, ``gt_keypoints`` of each image.
        normalizer: divisor of the sum; None for the number of these keypoints.
    """
    logits = pred_keypoint_logits
    found = [
        image.gt_keypoints.to_heatmap(image.proposal_boxes.tensor, logits.shape[-1])
        for image in instances
        if len(image)
    ]
    if not any(inside.any() for _, inside in found):
        return logits.sum() * 0
    cells = torch.cat([cell.flatten() for cell, _ in found])
    valid = torch.cat([inside.flatten() for _, inside in found]).nonzero()[:, 0]
    maps = logits.flatten(0, 1).flatten(1)
    loss = F.cross_entropy(maps[valid], cells[valid], reduction="sum")
    return loss / (len(valid) if normalizer is None else normalizer)


def keypoint_rcnn_inference(pred_keypoint_logits: Tensor, pred_instances: list[Instances]) -> None:
    """Add ``pred_keypoints`` (D, K, 3), x, y and score, and ``pred_keypoint_heatmaps``, in place.

    Args:
        pred_keypoint_logits: (sum D, K, S, S).
        pred_instances: with ``pred_boxes``, of each image.
    """
    sizes = [len(instances) for instances in pred_instances]
    for instances, maps in zip(pred_instances, pred_keypoint_logits.split(sizes), strict=True):
        instances.pred_keypoint_heatmaps = maps
        instances.pred_keypoints = heatmaps_to_keypoints(
            maps, instances.pred_boxes.tensor, instances.image_size
        )


class BaseKeypointRCNNHead(nn.Module):
    """Base class of keypoint heads of extensions; a subclass adds ``layers``, pooled features -> logits.

    Args:
        num_keypoints: K.
        loss_weight: weight of the keypoint loss.
        loss_normalizer: divisor of the loss per image; ``"visible"`` for the number of visible keypoints.
    """

    layers: Any

    @configurable
    def __init__(
        self, *, num_keypoints: int, loss_weight: float = 1.0, loss_normalizer: float | str = 1.0
    ) -> None:
        super().__init__()
        self.num_keypoints = num_keypoints
        self.loss_weight = loss_weight
        self.loss_normalizer = 0.0 if loss_normalizer == "visible" else float(loss_normalizer)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node, heads = cfg.MODEL.ROI_KEYPOINT_HEAD, cfg.MODEL.ROI_HEADS
        most = node.NUM_KEYPOINTS * heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION
        return {
            "num_keypoints": node.NUM_KEYPOINTS,
            "loss_weight": node.LOSS_WEIGHT,
            "loss_normalizer": "visible" if node.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS else most,
        }

    def forward(self, x: Tensor, instances: Optional[List[Tensor]] = None) -> Tensor:
        """Return the loss by name in training, else the ``Instances`` with ``pred_keypoints``.

        Args:
            x: pooled features of all proposals or detections.
            instances: the ``Instances`` of each image; None: return the logits (R, K, S, S).
        """
        if not torch.jit.is_scripting() and instances is not None:
            return self._with_instances(x, instances)
        return self.layers(x)

    @torch.jit.unused
    def _with_instances(self, x: Tensor, instances: Any) -> Any:
        logits = self.layers(x)
        if self.training:
            return self.losses(logits, instances)
        keypoint_rcnn_inference(logits, instances)
        return instances

    @torch.jit.unused
    def losses(self, logits: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        """Compute ``loss_keypoint`` over the visible keypoints inside the foreground proposals.

        Args:
            logits: (R, K, S, S) of all foreground proposals.
            instances: ``proposal_boxes`` and, if any, ``gt_keypoints`` of each image.
        """
        normalizer = self.loss_normalizer * len(instances) or None
        return {"loss_keypoint": keypoint_rcnn_loss(logits, instances, normalizer) * self.loss_weight}


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class KRCNNConvDeconvUpsampleHead(BaseKeypointRCNNHead, nn.Sequential):
    """3x3 convolutions, a 2x deconvolution to one map per keypoint, 2x bilinear upsampling.

    Args:
        input_shape: shape of the pooled features.
        num_keypoints: K.
        conv_dims: channels of ``conv_fcn1``, ``conv_fcn2``, ...
        **options: see ``BaseKeypointRCNNHead``.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_keypoints: int,
        conv_dims: list[int],
        **options: Any,
    ) -> None:
        super().__init__(num_keypoints=num_keypoints, **options)
        channels = input_shape.channels
        for index, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(channels, dim, 3, padding=1, relu=True)
            init_conv_msra(conv)
            self.add_module(f"conv_fcn{index}", conv)
            channels = dim
        self.score_lowres = nn.ConvTranspose2d(channels, num_keypoints, kernel_size=4, stride=2, padding=1)
        init_conv_msra(self.score_lowres)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        return super().from_config(cfg, input_shape) | {
            "input_shape": input_shape,
            "conv_dims": list(cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS),
        }

    def layers(self, x: Tensor) -> Tensor:
        """Return the logits (R, K, S, S) for pooled features (R, C, S / 4, S / 4)."""
        for layer in self:
            x = layer(x)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class _KeypointDecoding(nn.Module):
    """heatmaps, boxes, image -> keypoints."""

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [heatmaps_to_keypoints(tensors[0], tensors[1], size_of(tensors[2]))]


def keypoint_segments(pooler: Any, head: nn.Module, levels: tuple[Port, ...]) -> list[Segment]:
    """Return the segments from the levels and the boxes of the detections to their keypoints.

    Args:
        pooler: pools the features of the detections.
        head: pooled features -> heatmaps.
        levels: inputs of the pooler.
    """
    boxes, heatmaps, keypoints = rows("pred_boxes"), rows("keypoint_heatmaps"), rows("pred_keypoints")
    inputs = (*heatmaps, *boxes, IMAGE_PORT)
    return [
        pooling_segment("keypoint_pooled", pooler, levels, "pred_boxes"),
        Segment("keypoint_head", Layers(head), rows("keypoint_pooled"), heatmaps),
        Segment("keypoints", _KeypointDecoding(), inputs, keypoints, Kind.KEYPOINTS),
    ]
