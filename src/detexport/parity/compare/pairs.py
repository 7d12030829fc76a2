"""What a pair of detections has beside box and score: a mask, keypoints."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detexport.parity.compare.part import Part, beyond, differences, largest
from detexport.parity.compare.rows import Matching
from detexport.parity.compare.tolerance import Tolerance

FLIP_PX = 0.4
"""A keypoint that lies this far away, in px of the graph's input, is at another cell of its heatmap.

A heatmap is read in cells of more than half a px: see ``heatmaps_to_keypoints``.
"""


@dataclass(frozen=True)
class MaskPart(Part):
    """See ``Part``.

    Args:
        needed: the limits, ``mask_px`` and ``mask_area_ratio``, of which one would let those masks pass that
            pass by neither of the tolerance's; zeros where all pass.
    """

    needed: tuple[float, float] = (0.0, 0.0)


def compare_masks(
    expected: np.ndarray, actual: np.ndarray, matching: Matching, tolerance: Tolerance
) -> MaskPart:
    """Count the pixels (R, H, W) in which the masks of each pair differ, and measure how they overlap."""
    errors, areas, others = np.zeros((3, len(matching.rows)), np.int64)
    differ = np.empty(expected.shape[1:], bool)  # one for all: fresh memory costs more than the comparison
    for place, (row, column) in enumerate(zip(matching.rows, matching.columns, strict=True)):
        errors[place] = np.count_nonzero(np.not_equal(expected[row], actual[column], out=differ))
        areas[place] = np.count_nonzero(expected[row])
        others[place] = np.count_nonzero(actual[column]) if errors[place] else areas[place]
    limits = np.maximum(tolerance.mask_px, tolerance.mask_area_ratio * areas)
    # A pixel of the union that is not in both differs; two empty masks are the same.
    unions = (areas + others + errors) // 2
    ratios, failed = errors / np.maximum(areas, 1), errors > limits
    return MaskPart(
        {
            "mask_error_px": int(errors.max(initial=0)),
            "mask_error_ratio": largest(ratios),
            "mask_iou_error": largest(errors / np.maximum(unions, 1)),
        },
        numerics=beyond("masks", "px", errors, limits),
        needed=(largest(errors[failed]), largest(ratios[failed])),
    )


@dataclass(frozen=True)
class KeypointPart(Part):
    """See ``Part``.

    Args:
        compared: number of keypoints of all pairs.
        flipped: number of those whose place is another cell of their heatmap.
    """

    compared: int = 0
    flipped: int = 0


def compare_keypoints(
    expected: np.ndarray, actual: np.ndarray, matching: Matching, tolerance: Tolerance, scale: float
) -> KeypointPart:
    """Compare places and scores of the keypoints (R, K, 3) of each pair.

    A place is where a heatmap is highest: where two cells are equally high, rounding decides, and the place
    may be another cell (``FLIP_PX``), but the score, which follows from the height, stays. So a few places
    may flip, by any distance, and no score differ by more than its tolerance. What lies less far away did not
    flip and is held to the limit in px. A score is an exponential of logits, which may exceed 1 by far, so
    its error is relative. In one image one flip is allowed, or the tolerance's part if that is more: who
    validates many images holds their sum against the same part.
    """
    error = differences(expected[matching.rows], actual[matching.columns])
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
    return KeypointPart(
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
) -> Part:
    """Measure how similar all keypoints (R, K, 3) of each pair are together, as COCO's metric sees them.

    Args:
        expected: the eager model's.
        actual: the runtime's.
        matching: the pairs.
        areas: (R,) of the eager model's boxes, in px.
        sigmas: see ``Contract.oks_sigmas``; where they are not known there is nothing to measure by.
    """
    if not sigmas:
        return Part()
    apart = differences(expected[matching.rows], actual[matching.columns])[..., :2]
    similarity = object_keypoint_similarity(apart, areas[matching.rows], sigmas)
    return Part({"keypoint_oks_error": largest(1 - similarity)})


def object_keypoint_similarity(apart: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """OKS of keypoints that all count (https://cocodataset.org/#keypoints-eval): (R,), 1 where they agree.

    Args:
        apart: (R, K, 2) distance in x and in y, in px.
        areas: (R,) of the objects, in px; of an object without area only equal keypoints are similar.
        sigmas: (K,) standard deviation of each keypoint's annotations, in parts of the root of the area.
    """
    squared = (apart.astype(np.float64) ** 2).sum(-1)
    spread = 2 * areas[:, None].astype(np.float64) * (2 * np.asarray(sigmas)) ** 2
    otherwise = np.where(squared > 0, np.inf, 0.0)
    similarity: np.ndarray = np.exp(-np.divide(squared, spread, out=otherwise, where=spread > 0)).mean(-1)
    return similarity
