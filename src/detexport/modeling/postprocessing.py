"""Post-processing of detections: scale boxes and paste masks into the output image."""

import torch.nn.functional as F
from torch import Tensor

from detexport.layers.mask_ops import paste_masks
from detexport.structures import Instances, ROIMasks


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Rescale detections to the size of the output image.

    Args:
        results: detections in px of the network input, ``pred_boxes`` or ``proposal_boxes``, also rotated;
            ``pred_masks`` (R, 1, S, S) probabilities, or ``ROIMasks``; ``pred_keypoints`` (R, K, 3).
        output_height: height of the output in px.
        output_width: width of the output in px.
        mask_threshold: lowest probability of a pixel of a mask.

    Returns:
        The detections whose clipped box is not empty; ``pred_masks`` (R, output_height, output_width) bool.
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    boxes = results.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    if scaled.has("pred_keypoints"):
        scale = results.pred_keypoints.new_tensor([output_width / width, output_height / height, 1.0])
        scaled.pred_keypoints = results.pred_keypoints * scale
    scaled = scaled[boxes.nonempty()]
    if scaled.has("pred_masks"):
        masks = scaled.pred_masks
        masks = masks.tensor if isinstance(masks, ROIMasks) else masks[:, 0]
        scaled.pred_masks = paste_masks(
            masks, scaled.pred_boxes.tensor, output_height, output_width, mask_threshold
        )
    return scaled


def sem_seg_postprocess(
    result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> Tensor:
    """Crop semantic logits to the image and resize them to the output.

    Args:
        result: (C, H, W), padded.
        img_size: height and width of the image without its padding, in px.
        output_height: height of the output in px.
        output_width: width of the output in px.

    Returns:
        (C, output_height, output_width).
    """
    height, width = img_size
    cropped = result[None, :, :height, :width]
    return F.interpolate(cropped, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
