"""One image's outputs as numpy arrays: their fields, checks, and packing for a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Outputs = dict[str, Any]
"""Post-processed outputs by name, from ``detexport.processing.postprocess``: arrays of ``FIELDS``, and
``segments_info``, the list of dicts of ``panoptic_seg``'s segments."""


@dataclass(frozen=True)
class Field:
    """Dtype and shape of an array of ``Outputs``.

    Args:
        dtype: numpy's name.
        shape: sizes, or letters of dynamic sizes, which are the same in all fields: R detections,
            K keypoints, C classes, H and W of the output in px, P proposals.
    """

    dtype: str
    shape: tuple[int | str, ...]


FIELDS = {
    "pred_boxes": Field("float32", ("R", 4)),  # XYXY in px of the output
    "scores": Field("float32", ("R",)),  # descending
    "pred_classes": Field("int64", ("R",)),
    "pred_masks": Field("bool", ("R", "H", "W")),
    "pred_keypoints": Field("float32", ("R", "K", 3)),  # x, y in px of the output, score
    "proposal_boxes": Field("float32", ("P", 4)),  # XYXY in px of the output
    "objectness_logits": Field("float32", ("P",)),  # descending
    "sem_seg": Field("float32", ("C", "H", "W")),  # logits
    "panoptic_seg": Field("int32", ("H", "W")),  # id of a segment, 0 for none
}
ROTATED_BOXES = Field("float32", ("R", 5))
"""``pred_boxes`` of rotated boxes: centre x and y, width and height in px of the output, angle in degrees."""
NAMES = (*FIELDS, "segments_info")
# Fields that occur only together.
TOGETHER = (
    ("pred_boxes", "scores", "pred_classes"),
    ("proposal_boxes", "objectness_logits"),
    ("panoptic_seg", "segments_info"),
)
# Fields that require another one.
NEEDS = {"pred_masks": "scores", "pred_keypoints": "scores", "panoptic_seg": "pred_masks"}
DESCENDING = ("scores", "objectness_logits")


def field_faults(outputs: Outputs, size: tuple[int, int] | None = None) -> list[str]:
    """Return the faults of ``outputs``; empty if they are valid.

    Checks fields, dtypes, shapes, finite numbers, descending scores, and that ``segments_info`` lists the
    segments of ``panoptic_seg``.

    Args:
        outputs: those of one image.
        size: height and width of the output in px, if known.
    """
    missing = _missing(outputs)
    unknown = [name for name in outputs if name not in NAMES]
    if missing or unknown or not outputs:
        return [f"fields missing: {missing}, unknown: {unknown}, given: {list(outputs)}"]
    sizes = dict(zip("HW", size, strict=True)) if size else {}
    faults = []
    for name, field in FIELDS.items():
        if name in outputs:
            field = ROTATED_BOXES if name == "pred_boxes" and is_rotated(outputs[name]) else field
            faults += array_faults(name, outputs[name], field.dtype, field.shape, sizes)
    if not faults:
        faults += [f"{name}: do not descend" for name in DESCENDING if _ascends(outputs.get(name))]
    if not faults and "panoptic_seg" in outputs:
        faults += _segment_faults(outputs["panoptic_seg"], outputs["segments_info"])
    return faults


def array_faults(
    name: str, value: np.ndarray, dtype: str, shape: tuple[int | str, ...], sizes: dict[str, int]
) -> list[str]:
    """Return how an array differs from the expected dtype and shape, and whether it is finite.

    Args:
        name: its name, for the message.
        value: the array.
        dtype: numpy's name.
        shape: sizes, or letters of dynamic sizes.
        sizes: the known sizes by letter; new letters are added.
    """
    faults = []
    if value.dtype != dtype:
        faults.append(f"{name}: dtype {value.dtype}, expected {dtype}")
    if value.ndim == len(shape):
        for dim, got in zip(shape, value.shape, strict=True):
            if isinstance(dim, str):
                sizes.setdefault(dim, got)
    wanted = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)
    if value.shape != wanted:
        faults.append(f"{name}: shape {value.shape}, expected {wanted}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        faults.append(f"{name}: {np.count_nonzero(~np.isfinite(value))} values are NaN or infinite")
    return faults


def is_rotated(boxes: np.ndarray) -> bool:
    """Return whether boxes are rotated, (R, 5) instead of (R, 4) XYXY."""
    return boxes.ndim == 2 and boxes.shape[1] == ROTATED_BOXES.shape[1]


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Return the corners (R, 4, 2), x and y in px, of boxes (R, 4) XYXY or rotated (R, 5), around each."""
    if not is_rotated(boxes):
        x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
        return np.stack(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), axis=0).transpose(2, 0, 1)
    x, y, width, height, angle = np.moveaxis(boxes.astype(np.float64), -1, 0)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    corners = []
    for side_x, side_y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        right, down = side_x * width, side_y * height
        # y points down: a counter-clockwise rotation has a negative sine here.
        corners.append((x + right * cos + down * sin, y - right * sin + down * cos))
    return np.array(corners).transpose(2, 0, 1)


def axis_aligned(boxes: np.ndarray) -> np.ndarray:
    """Return the smallest axis-aligned boxes (R, 4) around rotated boxes (R, 5); XYXY boxes unchanged."""
    if not is_rotated(boxes):
        return boxes
    corners = box_corners(boxes)
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1).astype(boxes.dtype)


def count_rows(outputs: Outputs) -> int:
    """Return the number of detections or proposals; 0 also if a model outputs neither."""
    for name in DESCENDING:
        value = outputs.get(name)
        if value is not None and value.ndim:
            return len(value)
    return 0


def pack(outputs: Outputs) -> dict[str, np.ndarray]:
    """Return the arrays to store: ``pred_masks`` as bits and ``masks_shape``, ``segments_info`` as JSON."""
    packed = {name: value for name, value in outputs.items() if name not in ("pred_masks", "segments_info")}
    if "pred_masks" in outputs:
        masks = outputs["pred_masks"]
        packed["masks_packed"] = np.packbits(masks.reshape(-1))
        packed["masks_shape"] = np.array(masks.shape, np.int64)
    if "segments_info" in outputs:
        packed["segments_info"] = np.array(json.dumps(outputs["segments_info"]))
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> Outputs:
    """Undo ``pack``; ignore other entries of ``packed``."""
    outputs: Outputs = {name: packed[name] for name in FIELDS if name in packed}
    if "masks_packed" in packed:
        shape = tuple(int(size) for size in packed["masks_shape"])
        bits = np.unpackbits(packed["masks_packed"], count=int(np.prod(shape)))
        outputs["pred_masks"] = bits.view(bool).reshape(shape)  # no copy: an image may have 100 MB of masks
    if "segments_info" in packed:
        outputs["segments_info"] = json.loads(str(packed["segments_info"]))
    return outputs


def _missing(outputs: Outputs) -> list[str]:
    missing = [
        name
        for group in TOGETHER
        if any(other in outputs for other in group)
        for name in group
        if name not in outputs
    ]
    needed = [other for name, other in NEEDS.items() if name in outputs and other not in outputs]
    return list(dict.fromkeys([*missing, *needed]))


def _ascends(scores: np.ndarray | None) -> bool:
    return scores is not None and bool((np.diff(scores) > 0).any())


def _segment_faults(panoptic_seg: np.ndarray, segments_info: list[dict[str, Any]]) -> list[str]:
    ids = [segment["id"] for segment in segments_info]
    found, counts = (array.tolist() for array in np.unique(panoptic_seg, return_counts=True))
    areas = {segment["id"]: 0 for segment in segments_info if segment.get("area") == 0}
    areas |= {id: area for id, area in zip(found, counts, strict=True) if id}
    if sorted(ids) != sorted(areas):
        return [f"segments_info: ids {ids}, in panoptic_seg {list(areas)}"]
    return [
        f"segments_info: area {segment['area']} of id {segment['id']}, in panoptic_seg {areas[segment['id']]}"
        for segment in segments_info
        if segment.get("area", areas[segment["id"]]) != areas[segment["id"]]
    ]
