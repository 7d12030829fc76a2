"""Masks on a grid over their boxes -> masks of an image's size.

Bilinear between the grid's cell centres, 0 outside the grid, sampled at pixel centres. Such sampling is
separable, so a mask is two products with small matrices: the weights of the rows and of the columns.

Shapes: R masks, S cells a side, P pixels of one axis.
"""

import math
from typing import List

import torch
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Paste one mask after another, each into the pixels that its box can reach: eager and scripted.

    Args:
        masks: (R, S, S) probabilities.
        boxes: (R, 4) XYXY in px of the image.
        height: of the image in px.
        width: of the image in px.
        threshold: a pixel is set where its probability is at least this.

    Returns:
        (R, height, width) bool.
    """
    pasted = torch.zeros((masks.shape[0], height, width), dtype=torch.bool, device=masks.device)
    edges: List[List[float]] = boxes.tolist()
    cells = masks.shape[1]
    for place, edge in enumerate(edges):
        top, bottom = reached_pixels(edge[1], edge[3], cells, height)
        left, right = reached_pixels(edge[0], edge[2], cells, width)
        y = torch.arange(top, bottom, dtype=boxes.dtype, device=boxes.device) + 0.5
        x = torch.arange(left, right, dtype=boxes.dtype, device=boxes.device) + 0.5
        box = boxes[place : place + 1]
        rows = interpolation_weights(y, box[:, 1], box[:, 3], masks)[0]
        columns = interpolation_weights(x, box[:, 0], box[:, 2], masks)[0]
        pasted[place, top:bottom, left:right] = rows @ masks[place] @ columns.t() >= threshold
    return pasted


def paste_masks_at_once(masks: Tensor, boxes: Tensor, y: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Paste all masks by two products: for graphs without loops; 4 bytes more a pixel of each mask.

    Args:
        masks: (R, S, S) probabilities.
        boxes: (R, 4) XYXY in px of the image, none empty.
        y: (height,) centres of the image's rows in px.
        x: (width,) centres of its columns in px.
        threshold: a pixel is set where its probability is at least this; positive.

    Returns:
        (R, height, width) bool.
    """
    rows = interpolation_weights(y, boxes[:, 1], boxes[:, 3], masks)
    columns = interpolation_weights(x, boxes[:, 0], boxes[:, 2], masks)
    return rows @ masks @ columns.transpose(1, 2) >= threshold


def interpolation_weights(centres: Tensor, start: Tensor, end: Tensor, masks: Tensor) -> Tensor:
    """How much each of a box's cells weighs at pixels along one axis.

    Args:
        centres: (P,) of the pixels, in px.
        start: (R,) first edges of the boxes in px.
        end: (R,) last edges in px.
        masks: (any, S, S) whose cells divide a box.

    Returns:
        (R, P, S): 0 from half a cell outside of the box.
    """
    position = (centres - start[:, None]) / (end - start)[:, None] * masks.shape[2] - 0.5
    # Counted from ones: an arange would write the device of a trace into it.
    cell = torch.ones_like(masks.sum(dim=[0, 1])).cumsum(0) - 1
    return (1 - (position[:, :, None] - cell).abs()).clamp(min=0)


def reached_pixels(start: float, end: float, cells: int, size: int) -> List[int]:
    """First pixel, and that after the last one, in which a box's cells weigh anything along one axis.

    Args:
        start: first edge of the box in px.
        end: last edge of the box in px.
        cells: that divide the box.
        size: pixels along the axis.
    """
    half_cell = (end - start) / (2 * cells)
    first = min(max(math.floor(start - half_cell), 0), size)
    return [first, max(min(math.ceil(end + half_cell), size), first)]
