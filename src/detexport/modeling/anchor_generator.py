"""Anchor generator: boxes of fixed sizes and aspect ratios at every cell of a feature map."""

import math
from collections.abc import Sequence
from typing import Any, List, cast

import torch
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling.registries import ANCHOR_GENERATOR_REGISTRY
from detexport.structures import Boxes, RotatedBoxes


def build_anchor_generator(cfg: CfgNode, input_shape: list[ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.ANCHOR_GENERATOR.NAME`` for feature maps of these shapes."""
    return ANCHOR_GENERATOR_REGISTRY.build(cfg, input_shape)


def _per_level(values: Sequence[Any], levels: int, key: str) -> list[list[float]]:
    """Return one list per level; a single list, or numbers, apply to every level."""
    if not isinstance(values[0], list | tuple):
        values = [values]
    if len(values) == 1:
        values = list(values) * levels
    if len(values) != levels:
        raise ConfigError(
            f"{key} does not fit the feature maps",
            got=f"{len(values)} lists",
            expected=f"one list, or {levels}",
            remedy=f"give one list for all, or one for each feature map, in {key}",
        )
    return [list(value) for value in values]


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Return the anchors of one cell, centred on 0: for each size all aspect ratios (height / width).

    Returns:
        (A, 4) XYXY in px; the area of each is size².
    """
    boxes = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size * size / ratio)
            height = ratio * width
            boxes.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(boxes)


class AnchorGrid(nn.Module):
    """A module that returns the anchors of every cell of every level.

    Args:
        sizes: square roots of the anchors' areas in px, a list per level or one list for all levels.
        aspect_ratios: height over width, a list per level or one list for all levels.
        strides: stride of each level in px.
        offset: centre of an anchor within its cell, as a fraction of the stride.
    """

    cells: Tensor

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Any],
        aspect_ratios: Sequence[Any],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= offset < 1:
            raise ConfigError(
                "the anchor offset is out of range",
                got=f"MODEL.ANCHOR_GENERATOR.OFFSET: {offset}",
                expected="a fraction of the stride, at least 0 and less than 1",
                remedy="correct MODEL.ANCHOR_GENERATOR.OFFSET",
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
                "every level must have the same number of anchors per cell",
                got=[len(cell) for cell in cells],
                expected="equal numbers",
                remedy="give each level as many sizes and aspect ratios: MODEL.ANCHOR_GENERATOR",
            )
        self.num_anchors: List[int] = [len(cell) for cell in cells]
        self.register_buffer("cells", torch.stack(cells), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": node.SIZES,
            "aspect_ratios": node.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": node.OFFSET,
        }

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        """Return the anchors of each level, in the order of a (H, W, A) grid.

        Positions are cumulative sums of ones over a row and a column of the feature map, so that a trace
        contains neither a size nor a device.

        Args:
            features: one (N, C, H, W) per level.

        Returns:
            one (H * W * A, 4) per level, XYXY in px of the padded image.
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


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(AnchorGrid):
    """The anchors of an ``AnchorGrid`` as ``Boxes``, for code that works with structures.

    Args:
        sizes: see ``AnchorGrid``; so are the other arguments.
        aspect_ratios: height over width.
        strides: stride of each level in px.
        offset: centre of an anchor within its cell, as a fraction of the stride.
    """

    box_dim: int = 4

    def forward(self, features: List[Tensor]) -> List[Boxes]:  # type: ignore[override]
        """Return the anchors of each level (N, C, H, W), H * W * A boxes in px of the padded image."""
        return [Boxes(anchors) for anchors in super().forward(features)]

    @property
    def num_cell_anchors(self) -> list[int]:
        """Number of anchors of a cell of each level."""
        return self.num_anchors

    @staticmethod
    def generate_cell_anchors(
        sizes: Sequence[float] = (32, 64, 128, 256, 512), aspect_ratios: Sequence[float] = (0.5, 1, 2)
    ) -> Tensor:
        """Return the anchors of one cell: see ``cell_anchors``."""
        return cell_anchors(sizes, aspect_ratios)

    def as_grid(self) -> AnchorGrid:
        """Return a module of the same anchors as tensors, for graphs."""
        grid = AnchorGrid(sizes=[[1]], aspect_ratios=[[1]], strides=self.strides, offset=self.offset)
        grid.cells, grid.num_anchors = self.cells, self.num_anchors
        return grid


class AnchorTensors(nn.Module):
    """Anchors of a generator that returns ``Boxes`` or tensors, as tensors.

    Args:
        generator: called with the feature maps.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        """Return the anchors (HWA, 4) of each level."""
        return [getattr(anchors, "tensor", anchors) for anchors in self.generator(features)]


def tensor_anchors(generator: nn.Module) -> Any:
    """Return a module with the anchors of ``generator`` as tensors, for models and graphs."""
    if type(generator) in (DefaultAnchorGenerator, RotatedAnchorGenerator):
        return cast(DefaultAnchorGenerator | RotatedAnchorGenerator, generator).as_grid()
    return generator if type(generator) in (AnchorGrid, RotatedAnchorGrid) else AnchorTensors(generator)


class RotatedAnchorGrid(nn.Module):
    """A module that returns the rotated anchors of every cell of every level.

    Args:
        cells: (L, A, 5) anchors of a cell of each level, centred on 0.
        strides: stride of each level in px.
        offset: centre of an anchor within its cell, as a fraction of the stride.
    """

    cells: Tensor
    box_dim: int = 5

    def __init__(self, cells: Tensor, strides: Sequence[int], offset: float) -> None:
        super().__init__()
        self.strides: List[int] = list(strides)
        self.offset = offset
        self.num_anchors: List[int] = [cells.shape[1]] * len(cells)
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, features: List[Tensor]) -> List[Tensor]:
        """Return the anchors of each level, as ``AnchorGrid.forward`` does, (H * W * A, 5)."""
        anchors: List[Tensor] = []
        for level, feature in enumerate(features):
            ones = torch.ones_like(feature[0, 0], dtype=torch.float32)
            y = (ones.cumsum(0) - (1.0 - self.offset)) * float(self.strides[level])
            x = (ones.cumsum(1) - (1.0 - self.offset)) * float(self.strides[level])
            zero = torch.zeros_like(ones)
            shifts = torch.stack((x, y, zero, zero, zero), dim=2)
            anchors.append((shifts[:, :, None, :] + self.cells[level]).reshape(-1, 5))
        return anchors


@ANCHOR_GENERATOR_REGISTRY.register()
class RotatedAnchorGenerator(nn.Module):
    """Rotated anchors of fixed sizes, aspect ratios and angles at every cell of every level.

    Args:
        sizes: square roots of the anchors' areas in px, a list per level or one list for all levels.
        aspect_ratios: height over width, a list per level or one list for all levels.
        strides: stride of each level in px.
        angles: in degrees, counter-clockwise, a list per level or one list for all levels.
        offset: centre of an anchor within its cell, as a fraction of the stride.
    """

    box_dim: int = 5

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Any],
        aspect_ratios: Sequence[Any],
        strides: Sequence[int],
        angles: Sequence[Any],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        plain = AnchorGrid(sizes=sizes, aspect_ratios=aspect_ratios, strides=strides, offset=offset)
        per_level = _per_level(angles, len(strides), "MODEL.ANCHOR_GENERATOR.ANGLES")
        if len({len(one) for one in per_level}) != 1:
            raise ConfigError(
                "every level must have the same number of anchors per cell",
                got=f"MODEL.ANCHOR_GENERATOR.ANGLES: {per_level}",
                expected="as many angles for each level",
                remedy="correct MODEL.ANCHOR_GENERATOR.ANGLES",
            )
        cells = [
            [
                [0.0, 0.0, x1 - x0, y1 - y0, angle]
                for x0, y0, x1, y1 in plain.cells[level].tolist()
                for angle in one
            ]
            for level, one in enumerate(per_level)
        ]
        self.grid = RotatedAnchorGrid(torch.tensor(cells), strides, offset)
        self.num_anchors: list[int] = self.grid.num_anchors

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        return {
            **AnchorGrid.from_config(cfg, input_shape),
            "angles": cfg.MODEL.ANCHOR_GENERATOR.ANGLES,
        }

    @property
    def num_cell_anchors(self) -> list[int]:
        """Number of anchors of a cell of each level."""
        return self.num_anchors

    def forward(self, features: List[Tensor]) -> List[RotatedBoxes]:
        """Return the anchors of each level (N, C, H, W) in the order of a (H, W, size, ratio, angle) grid."""
        return [RotatedBoxes(anchors) for anchors in self.grid(features)]

    def as_grid(self) -> RotatedAnchorGrid:
        """Return a module of the same anchors as tensors, for graphs."""
        return self.grid


def by_anchor(maps: Tensor, values: int) -> Tensor:
    """Reshape the output of a head for one level to the order of the anchors.

    Args:
        maps: (N, A * values, H, W).
        values: values per anchor.

    Returns:
        (N, HWA, values).
    """
    return (
        maps.view(maps.shape[0], -1, values, maps.shape[2], maps.shape[3])
        .permute(0, 3, 4, 1, 2)
        # Explicit: whether flatten must copy depends on the size, and torch.export would guard on it.
        .clone(memory_format=torch.contiguous_format)
        .flatten(1, 3)
    )
