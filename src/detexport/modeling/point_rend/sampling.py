"""Sampling of features at points, and of points for training.

Shapes: N maps, R boxes, P points, C channels. A point is x and y relative to its map or box: 0 at the left
and top edge, 1 at the right and bottom edge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.conv import shapes_of
from detexport.modeling.roi_heads.base import split_by_image


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps at points by bilinear interpolation between the cells' centres, with zero padding.

    Args:
        maps: (N, C, H, W).
        points: (N, P, 2).

    Returns:
        (N, C, P).
    """
    return F.grid_sample(maps, 2.0 * points[:, :, None] - 1.0, align_corners=False)[:, :, :, 0]


def cell_centres(cells: Tensor, height: int, width: int) -> Tensor:
    """Return the centres (R, P, 2) of cells (R, P), row-major indices in a ``height`` x ``width`` map."""
    step_x, step_y = 1.0 / width, 1.0 / height
    row = torch.div(cells, width, rounding_mode="floor")
    column = cells - row * width  # no remainder: ONNX's exporter supports none by a size
    x = column.to(torch.float32) * step_x + step_x / 2.0
    y = row.to(torch.float32) * step_y + step_y / 2.0
    return torch.stack((x, y), dim=2)


def regular_grid(side: int) -> Tensor:
    """Return the centres (1, side * side, 2) of all cells of a grid, in row-major order."""
    identity = torch.eye(2, 3)[None]
    grid = F.affine_grid(identity, [1, 1, side, side], align_corners=False)
    return (grid.reshape(1, side * side, 2) + 1.0) / 2.0


def points_in_image(boxes: Tensor, points: Tensor) -> Tensor:
    """Convert points (R, P, 2) relative to boxes (R, 4), XYXY in px, to px of the image."""
    return points * (boxes[:, None, 2:] - boxes[:, None, :2]) + boxes[:, None, :2]


class PointPooler(nn.Module):
    """Samples features at points relative to boxes; concatenates those of several feature maps.

    Args:
        input_shape: shapes of all feature maps by name, in the order of ``features``.
        in_features: names of the maps to sample.
        key: configuration key that names them, for errors.
    """

    def __init__(self, input_shape: dict[str, ShapeSpec], in_features: Sequence[str], key: str) -> None:
        super().__init__()
        shapes = shapes_of(input_shape, in_features, key)
        self.channels = sum(shape.channels for shape in shapes)
        self.strides: List[int] = [shape.stride for shape in shapes]
        self.places: List[int] = [list(input_shape).index(name) for name in in_features]

    def forward(self, features: List[Tensor], boxes: List[Tensor], points: Tensor) -> Tensor:
        """Sample the features at the points of each box.

        Args:
            features: one (N, C, H, W) per level.
            boxes: one (R, 4) per image, XYXY in px.
            points: (sum R, P, 2) relative to the boxes, in the order of the boxes.

        Returns:
            (sum R, C, P).
        """
        positions = split_by_image(points_in_image(torch.cat(boxes), points), boxes)
        images: List[Tensor] = []
        for image in range(len(boxes)):
            x, y = positions[image].unbind(dim=2)
            sampled: List[Tensor] = []
            for place, stride in zip(self.places, self.strides):  # noqa: B905 - TorchScript supports no strict
                level = features[place][image : image + 1]
                grid = torch.stack((x / (level.shape[3] * stride), y / (level.shape[2] * stride)), dim=2)
                values = F.grid_sample(level, (2.0 * grid - 1.0)[None], align_corners=False)
                sampled.append(values[0].transpose(0, 1))
            images.append(torch.cat(sampled, dim=1))
        return torch.cat(images)


@dataclass(frozen=True)
class PointSampling:
    """Sampling of points for training: the most uncertain candidates, and uniformly sampled points.

    Args:
        num_points: points per box or map.
        oversample_ratio: number of candidates over ``num_points``; at least 1.
        importance_ratio: fraction of the points that is selected by uncertainty.
    """

    num_points: int
    oversample_ratio: float
    importance_ratio: float

    @torch.no_grad()
    def draw(self, logits: Tensor, uncertainty: Callable[[Tensor], Tensor]) -> Tensor:
        """Sample points of a coarse prediction.

        Args:
            logits: (N, C, H, W), a coarse prediction.
            uncertainty: logits (N, C, P) -> (N, P), higher is more uncertain.

        Returns:
            (N, num_points, 2).
        """
        count = int(self.importance_ratio * self.num_points)
        candidates = draw_uniformly(logits, int(self.oversample_ratio * self.num_points))
        chosen = uncertainty(sample(logits, candidates)).topk(count, dim=1).indices
        uncertain = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))
        return torch.cat((uncertain, draw_uniformly(logits, self.num_points - count)), dim=1)


def draw_uniformly(like: Tensor, num_points: int) -> Tensor:
    """Sample points (N, num_points, 2) uniformly, for the N rows of ``like`` and on its device."""
    return torch.rand(len(like), num_points, 2, device=like.device)


def point_sampling(cfg: CfgNode) -> PointSampling:
    """Build the sampling of points from a configuration.

    Raises:
        ConfigError: a ratio is out of range.
    """
    node = cfg.MODEL.POINT_HEAD
    if node.OVERSAMPLE_RATIO < 1 or not 0 <= node.IMPORTANCE_SAMPLE_RATIO <= 1:
        raise ConfigError(
            "a ratio of the point sampling is out of range",
            got=f"MODEL.POINT_HEAD.OVERSAMPLE_RATIO: {node.OVERSAMPLE_RATIO}, "
            f"MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO: {node.IMPORTANCE_SAMPLE_RATIO}",
            expected="at least 1, and 0 to 1",
            remedy="correct them",
        )
    return PointSampling(node.TRAIN_NUM_POINTS, node.OVERSAMPLE_RATIO, node.IMPORTANCE_SAMPLE_RATIO)
