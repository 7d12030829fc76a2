"""Anchors: boxes of fixed sizes and aspect ratios at every cell of a feature map."""

import math
from collections.abc import Sequence
from typing import Any, List

import torch
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling.registries import ANCHOR_GENERATOR_REGISTRY


def build_anchor_generator(cfg: CfgNode, input_shape: list[ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.ANCHOR_GENERATOR.NAME`` for feature maps of these shapes."""
    return ANCHOR_GENERATOR_REGISTRY.build(cfg, input_shape)


def _per_level(values: Sequence[Any], levels: int, key: str) -> list[list[float]]:
    """One list a level; a single list, or plain numbers, serve every level."""
    if not isinstance(values[0], list | tuple):
        values = [values]
    if len(values) == 1:
        values = list(values) * levels
    if len(values) != levels:
        raise ConfigError(
            f"{key} does not fit the feature maps",
            got=f"{len(values)} lists",
            expected=f"one list, or {levels}",
        )
    return [list(value) for value in values]


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors of one cell, centred on 0: sizes outside, ratios (height / width) inside.

    Returns:
        (A, 4) XYXY in px, each of the area size².
    """
    boxes = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size * size / ratio)
            height = ratio * width
            boxes.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(boxes)


@ANCHOR_GENERATOR_REGISTRY.register(name="DefaultAnchorGenerator")
class AnchorGrid(nn.Module):
    """The anchors of every cell of every level.

    Args:
        sizes: side of an anchor's square in px, a list a level or one list for all.
        aspect_ratios: height over width, likewise.
        strides: px of the image a cell, one a level.
        offset: where in its cell an anchor lies, in cells.
    """

    cells: Tensor

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Any],
        aspect_ratios: Sequence[Any],
        strides: Sequence[int],
        offset: float,
    ) -> None:
        super().__init__()
        if not 0 <= offset < 1:
            raise ConfigError(
                "an anchor lies in its cell",
                got=f"MODEL.ANCHOR_GENERATOR.OFFSET: {offset}",
                expected="a part of the cell's side, at least 0 and less than 1",
            )
        self.strides: List[int] = list(strides)
        self.offset = offset
        levels = len(strides)
        cells = [
            cell_anchors(size, ratio)
            for size, ratio in zip(
                _per_level(sizes, levels, "MODEL.ANCHOR_GENERATOR.SIZES"),
                _per_level(aspect_ratios, levels, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
                strict=True,
            )
        ]
        if len({len(cell) for cell in cells}) != 1:
            raise ConfigError(
                "every level has the same number of anchors a cell", got=[len(cell) for cell in cells]
            )
        self.num_anchors: List[int] = [len(cell) for cell in cells]
        self.register_buffer("cells", torch.stack(cells), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """The arguments that a configuration says."""
        node = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": node.SIZES,
            "aspect_ratios": node.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": node.OFFSET,
        }

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        """The anchors of each level, in the order of a (H, W, A) grid.

        Positions count ones over a row and a column of the feature map: neither a size nor a device is
        written into a trace.

        Args:
            features: one (N, C, H, W) a level.

        Returns:
            one (H * W * A, 4) a level, XYXY in px of the padded image.
        """
        anchors: List[Tensor] = []
        for level, feature in enumerate(features):
            stride = float(self.strides[level])
            rows = torch.ones_like(feature[0, 0, :, 0], dtype=torch.float32).cumsum(0) - (1.0 - self.offset)
            columns = torch.ones_like(feature[0, 0, 0, :], dtype=torch.float32).cumsum(0) - (
                1.0 - self.offset
            )
            y = (rows * stride)[:, None].expand(-1, feature.shape[3])
            x = (columns * stride)[None, :].expand(feature.shape[2], -1)
            shifts = torch.stack((x, y, x, y), dim=2)
            anchors.append((shifts[:, :, None, :] + self.cells[level]).reshape(-1, 4))
        return anchors


def by_anchor(maps: Tensor, values: int) -> Tensor:
    """What a head predicts for the anchors of a level, in the anchors' order.

    Args:
        maps: (N, A * values, H, W).
        values: numbers that belong to one anchor.

    Returns:
        (N, HWA, values).
    """
    return (
        maps.view(maps.shape[0], -1, values, maps.shape[2], maps.shape[3])
        .permute(0, 3, 4, 1, 2)
        # Written out: whether flatten must copy depends on the size, and torch.export would ask.
        .clone(memory_format=torch.contiguous_format)
        .flatten(1, 3)
    )
