"""From the model's own frame to the image that was asked for: scaled boxes, pasted masks."""

import math

import torch
from torch import Tensor

from detexport.structures import Boxes, Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Detections in the frame of an output of another size.

    Args:
        results: detections in px of the network's input; ``pred_masks`` (R, 1, S, S) probabilities;
            ``pred_keypoints`` (R, K, 3).
        output_height: height of the output in px.
        output_width: width of the output in px.
        mask_threshold: a pixel belongs to a mask where its probability is at least this.

    Returns:
        the detections whose clipped box is not empty; ``pred_masks`` (R, output_height, output_width) bool.
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    boxes = results.pred_boxes.clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    scaled.pred_boxes = boxes
    if scaled.has("pred_keypoints"):
        scale = results.pred_keypoints.new_tensor([output_width / width, output_height / height, 1.0])
        scaled.pred_keypoints = results.pred_keypoints * scale
    scaled = scaled[boxes.nonempty()]
    if scaled.has("pred_masks"):
        scaled.pred_masks = paste_masks(
            scaled.pred_masks[:, 0], scaled.pred_boxes, scaled.image_size, mask_threshold
        )
    return scaled


def paste_masks(masks: Tensor, boxes: Boxes, image_size: tuple[int, int], threshold: float) -> Tensor:
    """Masks on a grid over their boxes -> masks of the image's size.

    Bilinear between the grid's cell centres, 0 outside the grid, sampled at pixel centres; written as two
    products with the interpolation weights of the rows and of the columns.

    Args:
        masks: (R, S, S) probabilities.
        boxes: R boxes, XYXY in px of the image.
        image_size: height and width in px.
        threshold: a pixel is set where its probability is at least this.

    Returns:
        (R, H, W) bool.
    """
    pasted = torch.zeros((len(masks), *image_size), dtype=torch.bool, device=masks.device)
    for place, (mask, (x0, y0, x1, y1)) in enumerate(zip(masks, boxes.tensor.tolist(), strict=True)):
        # Only the pixels that the box can reach; most of the picture has no part in a mask.
        top, row_weights = interpolation_weights(y0, y1, image_size[0], mask)
        left, column_weights = interpolation_weights(x0, x1, image_size[1], mask)
        bottom, right = top + len(row_weights), left + len(column_weights)
        pasted[place, top:bottom, left:right] = row_weights @ mask @ column_weights.T >= threshold
    return pasted


def interpolation_weights(start: float, end: float, size: int, mask: Tensor) -> tuple[int, Tensor]:
    """How much each of a box's cells weighs at each pixel that the box reaches along one axis.

    Args:
        start: first edge of the box in px.
        end: last edge of the box in px.
        size: pixels along the axis.
        mask: (S, S) whose cells divide the box; gives dtype and device, too.

    Returns:
        The first pixel, and (pixels, S): the cells' weights in each, 0 half a cell outside of the box.
    """
    cells = len(mask)
    half_cell = (end - start) / (2 * cells)
    first = min(max(math.floor(start - half_cell), 0), size)
    last = max(min(math.ceil(end + half_cell), size), first)
    pixel = torch.arange(first, last, dtype=mask.dtype, device=mask.device) + 0.5
    position = (pixel - start) / (end - start) * cells - 0.5
    cell = torch.arange(cells, dtype=mask.dtype, device=mask.device)
    return first, (1 - (position[:, None] - cell).abs()).clamp(min=0)
