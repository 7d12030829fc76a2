"""Anchors of torchvision's models, at every size of the image."""

from typing import List

import torch
from torch import Tensor


def anchor_grids(batch: Tensor, levels: List[Tensor], cells: Tensor) -> List[Tensor]:
    """The anchors of each level, in the order of a (H, W, A) grid.

    torchvision's strides follow the sizes: px of the padded image by cells of the level, rounded down.

    Args:
        batch: (N, 3, H, W) padded images.
        levels: one (N, C, H, W) a level.
        cells: (L, A, 4) anchors of one cell.

    Returns:
        one (HWA, 4) a level, XYXY in px.
    """
    anchors: List[Tensor] = []
    for index, level in enumerate(levels):
        y = first_pixels(batch[0, 0, :, 0], level[0, 0, :, 0])[:, None].expand(-1, level.shape[3])
        x = first_pixels(batch[0, 0, 0, :], level[0, 0, 0, :])[None, :].expand(level.shape[2], -1)
        shifts = torch.stack((x, y, x, y), dim=2)
        anchors.append((shifts[:, :, None, :] + cells[index]).reshape(-1, 4))
    return anchors


def first_pixels(pixels: Tensor, cells: Tensor) -> Tensor:
    """Where each cell starts: (P,) pixels and (C,) cells of one line -> (C,) px.

    By counting ones: neither a size nor a device is written into a trace, and no number is multiplied with a
    line, which an exporter takes for a line of one cell where the sample has one.
    """
    stride = torch.floor(torch.ones_like(pixels).sum() / torch.ones_like(cells).sum())
    steps = stride.expand_as(cells)
    return steps.cumsum(0) - steps
