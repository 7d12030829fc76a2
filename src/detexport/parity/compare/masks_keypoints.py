"""Compare the masks and the keypoints of paired detections."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detexport.parity.compare.field_comparison import FieldComparison, absolute_errors, beyond, largest
from detexport.parity.compare.match_detections import Matching
from detexport.parity.compare.tolerance import Tolerance

FLIP_PX = 0.4
"""A keypoint that moved further, in px of the graph's input, is in another cell of its heatmap.

A cell is wider than half a px: see ``heatmaps_to_keypoints``.
"""


@dataclass(frozen=True)
class MaskComparison(FieldComparison):
    """The comparison of masks.

    Args:
        needed: ``mask_px`` and ``mask_area_ratio``; with either of them the masks that do not pass would
            pass. Zeros if all pass.
    """

    needed: tuple[float, float] = (0.0, 0.0)


def compare_masks(
    expected: np.ndarray, actual: np.ndarray, matching: Matching, tolerance: Tolerance
) -> MaskComparison:
    """Count the pixels (R, H, W) in which the masks of each pair differ, and measure how they overlap."""
    errors, areas, others = np.zeros((3, len(matching.rows)), np.int64)
    differ = np.empty(expected.shape[1:], bool)  # allocated once: new memory costs more than the comparison
    for index, (row, column) in enumerate(zip(matching.rows, matching.columns, strict=True)):
        errors[index] = np.count_nonzero(np.not_equal(expected[row], actual[column], out=differ))
        areas[index] = np.count_nonzero(expected[row])
        others[index] = np.count_nonzero(actual[column]) if errors[index] else areas[index]
    limits = np.maximum(tolerance.mask_px, tolerance.mask_area_ratio * areas)
    # A pixel of the union that is not in both differs; two empty masks are the same.
    unions = (areas + others + errors) // 2
    ratios, failed = errors / np.maximum(areas, 1), errors > limits
    return MaskComparison(
        {
            "mask_error_px": int(errors.max(initial=0)),
            "mask_error_ratio": largest(ratios),
            "mask_iou_error": largest(errors / np.maximum(unions, 1)),
        },
        numerics=beyond("masks", "px", errors, limits),
        needed=(largest(errors[failed]), largest(ratios[failed])),
    )


@dataclass(frozen=True)
class KeypointComparison(FieldComparison):
    """The comparison of keypoints.

    Args:
        compared: number of keypoints of all pairs.
        flipped: number of those in another cell of their heatmap.
    """

    compared: int = 0
    flipped: int = 0


def compare_keypoints(
    expected: np.ndarray, actual: np.ndarray, matching: Matching, tolerance: Tolerance, scale: float
) -> KeypointComparison:
    """Compare positions and scores of the keypoints (R, K, 3) of each pair.

    A keypoint is the highest cell of its heatmap. Between two equally high cells rounding decides, so a few
    keypoints may move to another cell (by more than ``FLIP_PX``, any distance); their score, which follows
    from the height, stays. The others must be within the limit in px. A score is an exponential of logits and
    may be much larger than 1, so its error is relative. In one image one keypoint may move, or the fraction
    ``keypoint_flip_ratio`` if that is more; over all images a report limits the same fraction.
    """
    error = absolute_errors(expected[matching.rows], actual[matching.columns])
    distance = error[..., :2].max(-1)
    highest = np.maximum(expected[matching.rows], actual[matching.columns])[..., 2].astype(np.float64)
    score_error = np.divide(error[..., 2], highest, out=np.zeros_like(highest), where=highest > 0)
    limit_px = tolerance.keypoint_px * scale
    flip_px = max(FLIP_PX * scale, limit_px)
    is_flip = distance > flip_px
    flipped, compared = int(np.count_nonzero(is_flip)), is_flip.size
    too_many = flipped > max(1, tolerance.keypoint_flip_ratio * compared)
    near = np.where(is_flip, 0, distance)
    limits = [np.full(distance.shape, limit) for limit in (limit_px, flip_px, tolerance.keypoint_score)]
    return KeypointComparison(
        errors={"keypoint_error_px": largest(near), "keypoint_score_error": largest(score_error)},
        numerics=(
            *beyond("keypoints", "px", near, limits[0], "keypoints"),
            *beyond("keypoint scores", "", score_error, limits[2], "keypoints"),
        ),
        matching=beyond("keypoints", "px", distance, limits[1], "keypoints") if too_many else (),
        compared=compared,
        flipped=flipped,
    )


def compare_poses(
    expected: np.ndarray, actual: np.ndarray, matching: Matching, areas: np.ndarray, sigmas: Sequence[float]
) -> FieldComparison:
    """Measure the OKS of the keypoints (R, K, 3) of each pair.

    Args:
        expected: the eager model's.
        actual: the runtime's.
        matching: the pairs.
        areas: (R,) of the eager model's boxes, in px.
        sigmas: see ``Contract.oks_sigmas``; if there are none, nothing is measured.
    """
    if not sigmas:
        return FieldComparison()
    apart = absolute_errors(expected[matching.rows], actual[matching.columns])[..., :2]
    similarity = object_keypoint_similarity(apart, areas[matching.rows], sigmas)
    return FieldComparison({"keypoint_oks_error": largest(1 - similarity)})


def object_keypoint_similarity(apart: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """Return the OKS with all keypoints visible (https://cocodataset.org/#keypoints-eval): (R,), 1 if equal.

    Args:
        apart: (R, K, 2) distance in x and in y, in px.
        areas: (R,) of the objects, in px; of one without area the OKS is 1 if keypoints are equal, else 0.
        sigmas: (K,) standard deviation of each keypoint's annotations, relative to the root of the area.
    """
    squared = (apart.astype(np.float64) ** 2).sum(-1)
    spread = 2 * areas[:, None].astype(np.float64) * (2 * np.asarray(sigmas)) ** 2
    otherwise = np.where(squared > 0, np.inf, 0.0)
    similarity: np.ndarray = np.exp(-np.divide(squared, spread, out=otherwise, where=spread > 0)).mean(-1)
    return similarity
