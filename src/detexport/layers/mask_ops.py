"""Pasting of masks from a grid over their boxes into the image.

Pixel centres are sampled bilinearly between the grid's cell centres, with 0 outside the grid. This is
separable: a pasted mask is the product of the grid with two small matrices, the weights of rows and columns.

Shapes: R masks, S cells per side, P pixels along one axis.
"""

import math
from typing import Any, List, Tuple

import torch
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Paste masks one by one, each into the pixels that its box can reach; for eager and scripted models.

    Args:
        masks: (R, S, S) probabilities.
        boxes: (R, 4) XYXY in px of the image.
        height: of the image in px.
        width: of the image in px.
        threshold: a pixel is set where its probability is at least this.

    Returns:
        (R, height, width) bool.
    """
    if not torch.jit.is_scripting() and torch.jit.is_tracing():  # a trace would keep the boxes of its sample
        y = torch.arange(height, dtype=boxes.dtype, device=boxes.device) + 0.5
        x = torch.arange(width, dtype=boxes.dtype, device=boxes.device) + 0.5
        return paste_masks_at_once(masks, boxes, y, x, threshold)
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


def paste_masks_in_image(
    masks: Tensor, boxes: Any, image_shape: Tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Paste masks into an image, under detectron2's names of function and arguments.

    Args:
        masks: (R, S, S) probabilities.
        boxes: ``Boxes`` or (R, 4) XYXY in px of the image.
        image_shape: height and width of the image in px.
        threshold: lowest probability of a pixel of a mask; negative: return probabilities.

    Returns:
        (R, height, width) bool; with a negative threshold uint8, the probabilities times 255.
    """
    edges: Tensor = boxes if isinstance(boxes, Tensor) else boxes.tensor
    height, width = image_shape
    if threshold >= 0:
        return paste_masks(masks, edges, height, width, threshold)
    y = torch.arange(height, dtype=edges.dtype, device=edges.device) + 0.5
    x = torch.arange(width, dtype=edges.dtype, device=edges.device) + 0.5
    rows = interpolation_weights(y, edges[:, 1], edges[:, 3], masks)
    columns = interpolation_weights(x, edges[:, 0], edges[:, 2], masks)
    return (rows @ masks @ columns.transpose(1, 2) * 255).to(torch.uint8)


def paste_masks_at_once(masks: Tensor, boxes: Tensor, y: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Paste all masks by two products, for graphs without loops; needs 4 more bytes per pixel of each mask.

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
    """Return the weight of each cell of a box at pixels along one axis.

    Args:
        centres: (P,) of the pixels, in px.
        start: (R,) first edges of the boxes in px.
        end: (R,) last edges in px.
        masks: (any, S, S), read for S alone.

    Returns:
        (R, P, S), 0 from half a cell outside the box on.
    """
    position = (centres - start[:, None]) / (end - start)[:, None] * masks.shape[2] - 0.5
    # Indices from cumsum of ones: an arange would write the device of a trace into the graph.
    cell = torch.ones_like(masks.sum(dim=[0, 1])).cumsum(0) - 1
    return (1 - (position[:, :, None] - cell).abs()).clamp(min=0)


def reached_pixels(start: float, end: float, cells: int, size: int) -> List[int]:
    """Return the range of pixels along one axis at which the cells of a box have weight: first, end.

    Args:
        start: first edge of the box in px.
        end: last edge of the box in px.
        cells: number of cells of the box.
        size: number of pixels of the axis.
    """
    half_cell = (end - start) / (2 * cells)
    first = min(max(math.floor(start - half_cell), 0), size)
    return [first, max(min(math.ceil(end + half_cell), size), first)]
