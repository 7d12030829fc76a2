"""From the model's own frame to the image that was asked for: scaled boxes, pasted masks."""

import torch
from torch import Tensor

from detexport.structures import Boxes, Instances

PASTE_CHUNK = 16
"""Masks pasted at once: bounds the memory to 16 floats a pixel."""


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
    height, width = image_size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    for start in range(0, len(masks), PASTE_CHUNK):
        part = slice(start, start + PASTE_CHUNK)
        x0, y0, x1, y1 = boxes.tensor[part].unbind(dim=1)
        rows = interpolation_weights(y0, y1, height, masks.shape[1])
        columns = interpolation_weights(x0, x1, width, masks.shape[2])
        pasted[part] = rows @ masks[part] @ columns.transpose(1, 2) >= threshold
    return pasted


def interpolation_weights(start: Tensor, end: Tensor, size: int, cells: int) -> Tensor:
    """How much each of a box's cells weighs at each pixel along one axis.

    Args:
        start: (R,) first edge of each box in px.
        end: (R,) last edge of each box in px.
        size: pixels along the axis.
        cells: cells along the axis.

    Returns:
        (R, size, cells).
    """
    pixel = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    position = (pixel[None] - start[:, None]) / (end - start)[:, None] * cells - 0.5
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)
    return (1 - (position[:, :, None] - cell).abs()).clamp(min=0)
