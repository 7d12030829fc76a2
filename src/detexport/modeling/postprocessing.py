"""Post-processing of detections: scale boxes and paste masks into the output image."""

from detexport.layers.mask_ops import paste_masks
from detexport.structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Rescale detections to the size of the output image.

    Args:
        results: detections in px of the network input; ``pred_masks`` (R, 1, S, S) probabilities;
            ``pred_keypoints`` (R, K, 3).
        output_height: height of the output in px.
        output_width: width of the output in px.
        mask_threshold: lowest probability of a pixel of a mask.

    Returns:
        The detections whose clipped box is not empty; ``pred_masks`` (R, output_height, output_width) bool.
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
            scaled.pred_masks[:, 0], scaled.pred_boxes.tensor, output_height, output_width, mask_threshold
        )
    return scaled
