"""What lies beyond the graph's end, in numpy: from the graph's image to the output's size, pasted masks."""

import numpy as np

from detexport.contract import Contract
from detexport.errors import ArtifactError


def postprocess(
    outputs: dict[str, np.ndarray],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    contract: Contract,
) -> dict[str, np.ndarray]:
    """Scale, clip and paste one image's detections.

    Args:
        outputs: the graph's raw outputs by the contract's names: ``pred_boxes`` (R, 4) XYXY in px of the
            graph's image, ``scores`` (R,), ``pred_classes`` (R,) and, where the model has masks,
            ``pred_masks`` (R, n, n), probabilities in a grid over each box; ``pred_keypoints`` (R, K, 3).
        image_size: height and width of the graph's image, in px.
        output_size: height and width wanted, in px.
        contract: the graph's contract; its ``mask_threshold`` decides the masks.

    Returns:
        ``pred_boxes`` (R, 4) float32 XYXY in px of the output, clipped to it; ``scores`` (R,);
        ``pred_classes`` (R,) int64; ``pred_masks`` (R, height, width) bool where the model has masks;
        ``pred_keypoints`` (R, K, 3) float32, x and y scaled, where it has keypoints.
        Detections whose clipped box is empty are dropped.

    Raises:
        ArtifactError: the masks are not a grid over each box.
    """
    boxes = clip_boxes(scale_boxes(outputs["pred_boxes"], image_size, output_size), output_size)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    result = {
        "pred_boxes": boxes[kept],
        "scores": outputs["scores"][kept],
        "pred_classes": outputs["pred_classes"][kept].astype(np.int64, copy=False),
    }
    if "pred_keypoints" in contract.output_names:
        (height, width), (output_height, output_width) = image_size, output_size
        scale = np.array([output_width / width, output_height / height, 1], np.float32)
        result["pred_keypoints"] = outputs["pred_keypoints"][kept] * scale
    if "pred_masks" in contract.output_names:
        grids = outputs["pred_masks"]
        if grids.ndim != 3 or grids.shape[1] != grids.shape[2]:
            raise ArtifactError(
                "these masks are not a grid over each box",
                got=f"pred_masks {grids.shape}",
                expected="(R, n, n)",
                remedy="export the model with its graph's end before the pasting of masks",
            )
        result["pred_masks"] = paste_masks(
            grids[kept], boxes[kept], output_size, threshold=contract.mask_threshold
        )
    return result


def scale_boxes(boxes: np.ndarray, image_size: tuple[int, int], output_size: tuple[int, int]) -> np.ndarray:
    """Scale boxes (R, 4) XYXY in px from one image size (height, width) to another; float32."""
    (height, width), (output_height, output_width) = image_size, output_size
    scale = np.array([output_width / width, output_height / height] * 2, np.float32)
    scaled: np.ndarray = boxes.astype(np.float32) * scale
    return scaled


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip boxes (R, 4) XYXY in px to an image of ``size`` (height, width)."""
    height, width = size
    clipped: np.ndarray = np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))
    return clipped


def paste_masks(
    grids: np.ndarray, boxes: np.ndarray, size: tuple[int, int], *, threshold: float
) -> np.ndarray:
    """Paste masks, a grid over each box, into images.

    Bilinear sampling is separable, so a pasted mask is two products of small matrices, and only the pixels of
    its own box are computed.

    Args:
        grids: (R, n, n) probabilities.
        boxes: (R, 4) XYXY in px of the image, inside it, none empty.
        size: height and width of the image, in px.
        threshold: a pixel belongs to the mask where its probability is at least this.

    Returns:
        (R, height, width) bool.
    """
    masks = np.zeros((len(grids), *size), bool)
    for mask, grid, (x0, y0, x1, y1) in zip(masks, grids, boxes, strict=True):
        rows, row_weights = _bilinear_weights(y0, y1, grid.shape[0], size[0])
        columns, column_weights = _bilinear_weights(x0, x1, grid.shape[1], size[1])
        mask[rows, columns] = row_weights @ grid @ column_weights.T >= threshold
    return masks


def _bilinear_weights(start: float, end: float, cells: int, limit: int) -> tuple[slice, np.ndarray]:
    """The pixels that an interval covers, and the weight (pixels, cells) of each cell of its grid in each.

    A pixel is sampled at its centre; beyond the outer cells' centres the probability fades, to 0 half a cell
    outside of the interval.
    """
    half_cell = (end - start) / (2 * cells)
    first, last = max(int(np.floor(start - half_cell)), 0), min(int(np.ceil(end + half_cell)), limit)
    centres = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    position = (centres - start) / (end - start) * np.float32(cells) - np.float32(0.5)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32)))
    return slice(first, last), weights
