from typing import Any

import numpy as np

from detexport.report.comparisons import differing_pixels
from tolerances import TOLERANCE


def outputs(masks: np.ndarray, classes: list[int], left: float = 0.0) -> dict[str, Any]:
    boxes = np.array([[left + 5 * i, 0, left + 5 * i + 4, 4] for i in range(len(classes))], np.float32)
    scores = np.linspace(0.9, 0.6, len(classes), dtype=np.float32)
    return {"pred_boxes": boxes, "scores": scores, "pred_classes": np.array(classes), "pred_masks": masks}


def test_a_pixel_that_another_mask_of_the_class_covers_is_seen() -> None:
    masks = np.zeros((2, 6, 12), bool)
    masks[0, :4, :6], masks[1, :4, 3:9] = True, True
    changed = masks.copy()
    changed[0, 0, 4] = False
    differs = differing_pixels(outputs(masks, [1, 1]), outputs(changed, [1, 1]), TOLERANCE)
    assert np.argwhere(differs).tolist() == [[0, 4]]
    assert not differing_pixels(outputs(masks, [1, 1]), outputs(masks, [1, 1]), TOLERANCE).any()


def test_a_lost_detection_differs_in_its_whole_mask() -> None:
    masks = np.zeros((2, 6, 12), bool)
    masks[0, 0, 0], masks[1, 5, 5:8] = True, True
    differs = differing_pixels(outputs(masks, [0, 1]), outputs(masks[:1], [0]), TOLERANCE)
    assert np.argwhere(differs).tolist() == [[5, 5], [5, 6], [5, 7]]


def test_segments_and_classes_of_pixels_are_compared() -> None:
    logits = np.zeros((2, 3, 3), np.float32)
    other = logits.copy()
    other[1, 2, 2] = 1
    assert np.argwhere(differing_pixels({"sem_seg": logits}, {"sem_seg": other}, TOLERANCE)).tolist() == [
        [2, 2]
    ]
    ids = np.array([[1, 1, 2]], np.int32)
    info = [{"id": 1, "isthing": True, "category_id": 0}, {"id": 2, "isthing": False, "category_id": 0}]
    renumbered = [{**info[0], "id": 7}, info[1]]
    segments = {"panoptic_seg": ids, "segments_info": info}
    same = {"panoptic_seg": np.array([[7, 7, 2]], np.int32), "segments_info": renumbered}
    assert not differing_pixels(segments, same, TOLERANCE).any()
    moved = {"panoptic_seg": np.array([[7, 2, 2]], np.int32), "segments_info": renumbered}
    assert np.argwhere(differing_pixels(segments, moved, TOLERANCE)).tolist() == [[0, 1]]
    assert differing_pixels({"pred_boxes": ids}, {"pred_boxes": ids}, TOLERANCE) is None
