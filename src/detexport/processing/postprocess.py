"""Post-processing in numpy: scaling to the output's size, pasting of masks, panoptic segments."""

from typing import Any

import numpy as np

from detexport.contract import Contract, PanopticRule
from detexport.errors import ArtifactError
from detexport.outputs import is_rotated


def postprocess(
    outputs: dict[str, np.ndarray],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    contract: Contract,
) -> dict[str, Any]:
    """Post-process one image's outputs into the frame of an output of another size.

    The outputs of a pasted graph are in that frame already; only ``panoptic_seg`` is added.

    Args:
        outputs: the graph's outputs by the contract's names. Instances: ``pred_boxes`` (R, 4) XYXY in px of
            the graph's image, or rotated (R, 5); ``scores`` and ``pred_classes`` (R,); if the model has them
            ``pred_masks`` (R, n, n), probabilities in a grid over each box, and ``pred_keypoints`` (R, K, 3).
            ``pred_masks`` may be left out.
            Proposals: ``proposal_boxes`` (R, 4) and ``objectness_logits`` (R,). Semantic segmentation:
            ``sem_seg`` (C, H, W) logits.
        image_size: height and width of the graph's image, in px.
        output_size: height and width of the output, in px.
        contract: the graph's contract.

    Returns:
        The same fields. Boxes are in px of the output and clipped to it; a detection or a proposal whose
        clipped box is empty is dropped with all its fields. ``pred_masks`` are (R, height, width) bool,
        ``pred_keypoints`` scaled, ``sem_seg`` (C, height, width). If the contract has a panoptic rule, also
        ``panoptic_seg`` (height, width) int32 and ``segments_info``: see ``combine_panoptic``.

    Raises:
        ArtifactError: the masks are not a grid over each box.
    """
    result: dict[str, Any] = (
        dict(outputs)
        if contract.graph_end == "pasted"
        else _paste(outputs, image_size, output_size, contract)
    )
    if contract.panoptic is not None:
        labels = result["sem_seg"].argmax(0)
        panoptic_seg, segments_info = combine_panoptic(result, labels, contract.panoptic)
        result |= {"panoptic_seg": panoptic_seg, "segments_info": segments_info}
    return result


def _paste(
    outputs: dict[str, np.ndarray],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    contract: Contract,
) -> dict[str, np.ndarray]:
    """Return a raw graph's outputs in the output's frame, as a pasted graph returns them."""
    result: dict[str, np.ndarray] = {}
    if "instances" in contract.results:
        result |= _instances(outputs, image_size, output_size, contract)
    if "proposals" in contract.results:
        boxes, kept = _place_boxes(outputs["proposal_boxes"], image_size, output_size)
        result |= {"proposal_boxes": boxes, "objectness_logits": outputs["objectness_logits"][kept]}
    if "sem_seg" in contract.results:
        result["sem_seg"] = resize_bilinear(outputs["sem_seg"], output_size)
    return result


def _instances(
    outputs: dict[str, np.ndarray],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    contract: Contract,
) -> dict[str, np.ndarray]:
    boxes, kept = _place_boxes(outputs["pred_boxes"], image_size, output_size)
    result = {
        "pred_boxes": boxes,
        "scores": outputs["scores"][kept],
        "pred_classes": outputs["pred_classes"][kept].astype(np.int64, copy=False),
    }
    if "pred_masks" in outputs:  # a caller may leave them out
        grids = outputs["pred_masks"]
        if grids.ndim != 3 or grids.shape[1] != grids.shape[2]:
            raise ArtifactError(
                "these masks are not a grid over each box",
                got=f"pred_masks {grids.shape}",
                expected="(R, n, n)",
                remedy="export the model as a raw graph, without the pasting of masks",
            )
        result["pred_masks"] = paste_masks(grids[kept], boxes, output_size, threshold=contract.mask_threshold)
    if "pred_keypoints" in contract.output_names:
        (height, width), (output_height, output_width) = image_size, output_size
        scale = np.array([output_width / width, output_height / height, 1], np.float32)
        result["pred_keypoints"] = outputs["pred_keypoints"][kept] * scale
    return result


def _place_boxes(
    boxes: np.ndarray, image_size: tuple[int, int], output_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the non-empty boxes in the output's frame, and which ones were kept (R,) bool."""
    if is_rotated(boxes):
        placed = clip_rotated_boxes(scale_rotated_boxes(boxes, image_size, output_size), output_size)
        kept = (placed[:, 2] > 0) & (placed[:, 3] > 0)
        return placed[kept], kept
    placed = clip_boxes(scale_boxes(boxes, image_size, output_size), output_size)
    kept = (placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1])
    return placed[kept], kept


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


def scale_rotated_boxes(
    boxes: np.ndarray, image_size: tuple[int, int], output_size: tuple[int, int]
) -> np.ndarray:
    """Scale rotated boxes (R, 5) from one image size (height, width) to another, as the eager model does."""
    (height, width), (output_height, output_width) = image_size, output_size
    scale_x, scale_y = np.float32(output_width / width), np.float32(output_height / height)
    x, y, w, h, angle = boxes.astype(np.float32).T
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turned = np.rad2deg(np.arctan2(scale_x * sin, scale_y * cos))
    sides = (w * np.hypot(scale_x * cos, scale_y * sin), h * np.hypot(scale_x * sin, scale_y * cos))
    scaled: np.ndarray = np.stack((x * scale_x, y * scale_y, *sides, turned), axis=1).astype(np.float32)
    return scaled


def clip_rotated_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip rotated boxes (R, 5) of at most 1 degree to ``size``; bring angles into [-180, 180)."""
    height, width = size
    x, y, w, h, angle = boxes.T
    angle = angle - 360 * np.floor((angle + 180) / 360)
    x0, x1 = np.clip(x - w / 2, 0, width), np.clip(x + w / 2, 0, width)
    y0, y1 = np.clip(y - h / 2, 0, height), np.clip(y + h / 2, 0, height)
    sides = np.minimum(x1 - x0, w), np.minimum(y1 - y0, h)
    clipped = np.stack(((x0 + x1) / 2, (y0 + y1) / 2, *sides, angle), axis=1)
    kept = np.stack((x, y, w, h, angle), axis=1)
    result: np.ndarray = np.where(np.abs(angle)[:, None] <= 1, clipped, kept).astype(np.float32)
    return result


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
        threshold: a pixel belongs to the mask if its probability is at least this.

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
    """Return the pixels that an interval covers, and each grid cell's weight in each pixel (pixels, cells).

    A pixel is sampled at its centre. Beyond the outer cells' centres the probability decreases linearly, to 0
    half a cell outside the interval.
    """
    half_cell = (end - start) / (2 * cells)
    first, last = max(int(np.floor(start - half_cell)), 0), min(int(np.ceil(end + half_cell)), limit)
    centres = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    position = (centres - start) / (end - start) * np.float32(cells) - np.float32(0.5)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32)))
    return slice(first, last), weights


def resize_bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize maps (C, H, W) to ``size`` (height, width), bilinear between pixel centres, edges repeated.

    Equals ``torch.nn.functional.interpolate`` with ``align_corners=False``.
    """
    for axis, length in ((1, size[0]), (2, size[1])):
        cells = maps.shape[axis]
        if cells == length:  # exact: the interpolation would be the identity only up to rounding
            continue
        centres = np.arange(length, dtype=np.float32) + np.float32(0.5)
        position = np.maximum(centres * np.float32(cells / length) - np.float32(0.5), 0)
        first = np.minimum(position.astype(np.int64), cells - 1)
        second = np.minimum(first + 1, cells - 1)
        weight = (position - first).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        maps = maps.take(first, axis) * (1 - weight) + maps.take(second, axis) * weight
    return maps


def combine_panoptic(
    instances: dict[str, np.ndarray], labels: np.ndarray, rule: PanopticRule
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Assign pixels to things by descending score, then the remaining pixels to stuff.

    Args:
        instances: ``scores``, ``pred_classes`` and ``pred_masks`` (R, H, W) bool; other keys are ignored.
        labels: (H, W) class of each pixel; 0 stands for all things.
        rule: the thresholds.

    Returns:
        ``panoptic_seg`` (H, W) int32, the id of each pixel's segment, 0 for none; ``segments_info``, a dict
        per segment with ``id``, ``isthing`` and ``category_id``, for a thing ``score`` and ``instance_id``
        (its index in ``instances``), for stuff ``area`` in px.
    """
    panoptic = np.zeros(labels.shape, np.int32)
    segments: list[dict[str, Any]] = []
    for index in np.argsort(-instances["scores"], kind="stable").tolist():
        score = float(instances["scores"][index])
        if score < rule.instances_score_threshold:
            break
        mask = instances["pred_masks"][index]
        area = int(np.count_nonzero(mask))
        free = mask & (panoptic == 0)
        left = int(np.count_nonzero(free))
        if left == 0 or (area - left) / area > rule.overlap_threshold:
            continue
        category = int(instances["pred_classes"][index])
        thing = {"isthing": True, "score": score, "category_id": category, "instance_id": index}
        segments.append({"id": len(segments) + 1, **thing})
        panoptic[free] = len(segments)
    for label in np.unique(labels).tolist():
        free = (labels == label) & (panoptic == 0)
        area = int(np.count_nonzero(free))
        if label == 0 or area < rule.stuff_area_limit:
            continue
        segments.append({"id": len(segments) + 1, "isthing": False, "category_id": label, "area": area})
        panoptic[free] = len(segments)
    return panoptic, segments
