"""Anchors of torchvision's models, for images of any size."""

from typing import List

import torch
from torch import Tensor


def anchor_grids(batch: Tensor, levels: List[Tensor], cells: Tensor) -> List[Tensor]:
    """Return the anchors of each level, in the order of a (H, W, A) grid.

    torchvision computes the strides from the sizes: px of the padded image over cells of the level, rounded
    down.

    Args:
        batch: (N, 3, H, W) padded images.
        levels: one (N, C, H, W) per level.
        cells: (L, A, 4) anchors of one cell.

    Returns:
        one (HWA, 4) per level, XYXY in px.
    """
    anchors: List[Tensor] = []
    for index, level in enumerate(levels):
        y = first_pixels(batch[0, 0, :, 0], level[0, 0, :, 0])[:, None].expand(-1, level.shape[3])
        x = first_pixels(batch[0, 0, 0, :], level[0, 0, 0, :])[None, :].expand(level.shape[2], -1)
        shifts = torch.stack((x, y, x, y), dim=2)
        anchors.append((shifts[:, :, None, :] + cells[index]).reshape(-1, 4))
    return anchors


def first_pixels(pixels: Tensor, cells: Tensor) -> Tensor:
    """Return the first pixel (C,) of each of the cells (C,) on an axis of pixels (P,).

    It is a cumulative sum of ones, so that a trace contains neither a size nor a device. No scalar is
    multiplied with an axis: an exporter would record an axis of one cell if the sample has one.
    """
    stride = torch.floor(torch.ones_like(pixels).sum() / torch.ones_like(cells).sum())
    steps = stride.expand_as(cells)
    return steps.cumsum(0) - steps
