"""One image's detections as numpy arrays, and how they are packed into a file."""

from collections.abc import Mapping

import numpy as np

Detections = dict[str, np.ndarray]
"""``pred_boxes`` (R, 4) float32 XYXY in px of the output, ``scores`` (R,) float32 descending,
``pred_classes`` (R,) int64 and, where the model has masks, ``pred_masks`` (R, H, W) bool."""

DTYPES = {"pred_boxes": "float32", "scores": "float32", "pred_classes": "int64", "pred_masks": "bool"}
TRAILING_SHAPES = {"pred_boxes": (4,), "scores": (), "pred_classes": ()}
BOX_FIELDS = ("pred_boxes", "scores", "pred_classes")


def field_faults(detections: Detections) -> list[str]:
    """Say what keeps ``detections`` from being what ``Detections`` promises; empty where nothing does.

    Fields, dtypes, shapes, numbers that are not finite, and scores that do not descend.
    """
    missing = [name for name in BOX_FIELDS if name not in detections]
    unknown = [name for name in detections if name not in DTYPES]
    if missing or unknown:
        return [f"fields missing: {missing}, unknown: {unknown}"]
    count = detections["scores"].shape[:1] or ("R",)
    faults = []
    for name, value in detections.items():
        trailing = TRAILING_SHAPES.get(name, value.shape[1:] if value.ndim == 3 else ("H", "W"))
        if value.dtype != DTYPES[name]:
            faults.append(f"{name}: dtype {value.dtype}, expected {DTYPES[name]}")
        if value.shape != (*count, *trailing):
            faults.append(f"{name}: shape {value.shape}, expected {(*count, *trailing)}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            faults.append(f"{name}: {np.count_nonzero(~np.isfinite(value))} values are NaN or infinite")
    if not faults and (np.diff(detections["scores"]) > 0).any():
        faults.append("scores: do not descend")
    return faults


def pack(detections: Detections) -> Detections:
    """Replace ``pred_masks`` by ``masks_packed``, a bit a pixel, and ``masks_shape``."""
    packed = {name: value for name, value in detections.items() if name != "pred_masks"}
    if "pred_masks" in detections:
        masks = detections["pred_masks"]
        packed["masks_packed"] = np.packbits(masks.reshape(-1))
        packed["masks_shape"] = np.array(masks.shape, np.int64)
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> Detections:
    """Undo ``pack``; other entries of ``packed`` are left out."""
    detections = {name: packed[name] for name in BOX_FIELDS}
    if "masks_packed" in packed:
        shape = tuple(int(size) for size in packed["masks_shape"])
        bits = np.unpackbits(packed["masks_packed"], count=int(np.prod(shape)))
        detections["pred_masks"] = bits.astype(bool).reshape(shape)
    return detections
