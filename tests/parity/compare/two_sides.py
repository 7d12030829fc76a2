"""The detections of two sides on one image, and their comparison."""

from typing import Any

import numpy as np

from detexport.parity.compare import SampleParity, compare
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE

THRESHOLD = 0.25
SIZE = (60, 80)


def detections(count: int = 4, *, masks: bool = True) -> dict[str, np.ndarray]:
    """``count`` detections apart from each other, every second of class 1, their scores 0.9, 0.8, ..."""
    x0 = np.arange(count, dtype=np.float32) * 18
    boxes = np.stack([x0, np.full(count, 5), x0 + 16, np.full(count, 45)], 1).astype(np.float32)
    result = {
        "pred_boxes": boxes,
        "scores": np.linspace(0.9, 0.9 - 0.1 * (count - 1), count, dtype=np.float32),
        "pred_classes": np.arange(count) % 2,
    }
    if masks:
        result["pred_masks"] = np.zeros((count, *SIZE), bool)
        for mask, (left, top, right, bottom) in zip(result["pred_masks"], boxes.astype(int), strict=True):
            mask[top:bottom, left:right] = True
    return result


def take(side: dict[str, np.ndarray], *indices: int) -> dict[str, np.ndarray]:
    return {name: value[list(indices)] for name, value in side.items()}


def measure(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray], **changes: Any) -> SampleParity:
    options = {"tolerance": TOLERANCE, "scale": 1.0, "contract": tiny_contract(score_threshold=THRESHOLD)}
    return compare(expected, actual, **{**options, **changes})
