"""ROI pooling: each box is pooled from the pyramid level that fits its size (Lin et al. 2017)."""

import math
from collections.abc import Sequence
from typing import Any, List

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers import roi_align_rotated
from detexport.modeling.graph_segment import Kind, Port, Segment, own_methods, rows
from detexport.structures import Boxes, RotatedBoxes

POOLER_TYPES = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")


def rois_of(boxes: List[Tensor]) -> Tensor:
    """Concatenate the boxes of each image to (sum R, 5 or 6 if rotated): index of the image, then the box."""
    rois: List[Tensor] = []
    for index, box in enumerate(boxes):
        rois.append(torch.cat([torch.full_like(box[:, :1], float(index)), box], dim=1))
    return torch.cat(rois)


class ROIPooler(nn.Module):
    """ROIAlign or ROIPool over one or several levels.

    Args:
        output_size: cells per side; the grid is square.
        scales: size of each level relative to the image, 1 / stride.
        sampling_ratio: ROIAlign's samples per cell and axis; 0 adapts to the box.
        pooler_type: ``"ROIAlignV2"`` (half-pixel offset), ``"ROIAlign"`` (without, as in older models), or
            ``"ROIPool"``, the maximum of whole pixels (Girshick 2015); for rotated boxes
            ``"ROIAlignRotated"``, with the half-pixel offset.
        canonical_box_size: side in px of a box that is pooled from ``canonical_level``.
        canonical_level: log2 of that level's stride.
    """

    def __new__(
        cls,
        output_size: int | tuple[int, int] = 0,
        scales: Sequence[float] = (),
        sampling_ratio: int = 0,
        pooler_type: str = "",
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> "ROIPooler":
        """Create a ``RotatedROIPooler`` if ``pooler_type`` is ``"ROIAlignRotated"``."""
        # The defaults are for copies, which are made without arguments.
        rotated = cls is ROIPooler and pooler_type == "ROIAlignRotated"
        return super().__new__(RotatedROIPooler if rotated else cls)

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        if pooler_type not in POOLER_TYPES:
            raise ConfigError(
                "unsupported POOLER_TYPE",
                got=f"POOLER_TYPE: {pooler_type}",
                expected=f"one of {', '.join(POOLER_TYPES)}",
                remedy="correct POOLER_TYPE",
            )
        strides = [round(1 / scale) for scale in scales]
        self.output_size = _square(output_size)
        self.scales: List[float] = [1.0 / stride for stride in strides]
        self.sampling_ratio = sampling_ratio
        self.aligned = pooler_type == "ROIAlignV2"
        self.by_maximum = pooler_type == "ROIPool"
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level
        self.min_level = int(math.log2(strides[0]))
        self.max_level = int(math.log2(strides[-1]))
        if list(strides) != [2**level for level in range(self.min_level, self.max_level + 1)]:
            raise ConfigError(
                "the strides of a pooler's levels must double from one level to the next",
                got=f"MODEL.ROI_HEADS.IN_FEATURES with the strides {list(strides)}",
                expected="neighbouring levels from fine to coarse, such as p2, p3, p4, p5",
                remedy="correct MODEL.ROI_HEADS.IN_FEATURES",
            )

    @torch.jit.unused
    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool the features of the boxes of each image, as ``pool`` does."""
        return self.pool(x, [boxes.tensor for boxes in box_lists])

    def pool(self, features: List[Tensor], boxes: List[Tensor]) -> Tensor:
        """Pool the features of each box.

        Args:
            features: one (N, C, H, W) per level.
            boxes: one (R, 4) per image, XYXY in px of the image.

        Returns:
            (sum R, C, output_size, output_size), in the order of the boxes.
        """
        rois = rois_of(boxes)
        if len(self.scales) == 1:
            return self._pool_level(features[0], rois, self.scales[0])
        levels = self._levels(rois)
        pooled: List[Tensor] = []
        places: List[Tensor] = []
        for index, scale in enumerate(self.scales):
            place = (levels == index).nonzero()[:, 0]
            places.append(place)
            pooled.append(self._pool_level(features[index], rois[place], scale))
        # Restores the order of the boxes; a scatter into zeros would write a device into a trace.
        return torch.cat(pooled)[torch.cat(places).argsort()]

    def _pool_level(self, feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        if self.by_maximum:
            pooled, _ = torch.ops.torchvision.roi_pool(
                feature, rois, scale, self.output_size, self.output_size
            )
            return pooled
        return torch.ops.torchvision.roi_align(
            feature, rois, scale, self.output_size, self.output_size, self.sampling_ratio, self.aligned
        )

    def _levels(self, rois: Tensor) -> Tensor:
        sides = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
        levels = torch.floor(self.canonical_level + torch.log2(sides / self.canonical_box_size + 1e-8))
        return levels.clamp(min=self.min_level, max=self.max_level).to(torch.int64) - self.min_level


class RotatedROIPooler(ROIPooler):
    """The pooler of rotated boxes (R, 5): centre x and y, width, height, angle."""

    def _pool_level(self, feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        return roi_align_rotated(feature, rois, self.output_size, scale, self.sampling_ratio)

    def _levels(self, rois: Tensor) -> Tensor:
        sides = torch.sqrt(rois[:, 3] * rois[:, 4])
        levels = torch.floor(self.canonical_level + torch.log2(sides / self.canonical_box_size + 1e-8))
        return levels.clamp(min=self.min_level, max=self.max_level).to(torch.int64) - self.min_level


def _square(output_size: int | tuple[int, int]) -> int:
    sides = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if sides[0] != sides[1]:
        raise ConfigError(
            "the grid of a pooler must be square",
            got=f"output_size {sides}",
            expected="equal numbers",
            remedy="give one number for height and width",
        )
    return sides[0]


def convert_boxes_to_pooler_format(box_lists: Sequence[Boxes | RotatedBoxes]) -> Tensor:
    """Return the boxes of all images, (sum R, 5 or 6 if rotated): index of the image, then the box."""
    return rois_of([boxes.tensor for boxes in box_lists])


def assign_boxes_to_levels(
    box_lists: Sequence[Boxes | RotatedBoxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
) -> Tensor:
    """Return the pyramid level that fits the size of each box (equation 1 of Lin et al. 2017).

    Args:
        box_lists: the boxes of each image.
        min_level: log2 of the stride of the finest level.
        max_level: log2 of the stride of the coarsest level.
        canonical_box_size: side in px of a box of ``canonical_level``.
        canonical_level: log2 of that level's stride.

    Returns:
        (sum R,) int64, 0 for ``min_level``.
    """
    sides = torch.cat([boxes.area() for boxes in box_lists]).sqrt()
    levels = torch.floor(canonical_level + torch.log2(sides / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


class _Pool(nn.Module):
    """L levels, boxes -> pooled features."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.pooler = own_methods(pooler)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.pooler.pool([level.contiguous() for level in tensors[:-1]], [tensors[-1]])]


def pooling_segment(name: str, pooler: Any, levels: tuple[Port, ...], boxes: str) -> Segment:
    """Return the segment that pools the features ``name`` of the boxes ``boxes``."""
    return Segment(name, _Pool(pooler), (*levels, *rows(boxes)), rows(name), Kind.CHOICES)
