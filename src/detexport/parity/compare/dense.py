"""What every pixel has: logits of semantic segmentation, and the segment that it belongs to."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detexport.contract import PanopticRule
from detexport.parity.compare.part import Part
from detexport.parity.compare.rows import Matching
from detexport.parity.compare.tolerance import Tolerance
from detexport.parity.outputs import Outputs


def compare_sem_seg(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> Part:
    """Compare logits (C, H, W), class by class: all differences at once would need as much memory again."""
    worst, count = 0.0, 0
    for first, second in zip(expected, actual, strict=True):
        errors = np.abs(first.astype(np.float64) - second)
        worst = max(worst, float(errors.max(initial=0)))
        count += int(np.count_nonzero(errors > tolerance.sem_seg))
    drift = (
        f"sem_seg: {count} of {expected.size} logits beyond the tolerance, worst {worst:.4g} "
        f"(limit {tolerance.sem_seg:.4g})",
    )
    return Part({"sem_seg_error": worst}, drift if count else ())


@dataclass(frozen=True)
class Segments:
    """A panoptic segmentation.

    Args:
        ids: (H, W) id of each pixel's segment, 0 for none.
        info: each segment's dict by its id.
        masks: (R, H, W) bool, those of the detections.
    """

    ids: np.ndarray
    info: dict[int, dict[str, Any]]
    masks: np.ndarray

    @classmethod
    def of(cls, outputs: Outputs) -> "Segments":
        """An image's segments."""
        info = {one["id"]: one for one in outputs["segments_info"]}
        return cls(outputs["panoptic_seg"], info, outputs["pred_masks"])


def compare_panoptic(
    expected: Outputs, actual: Outputs, matching: Matching, tolerance: Tolerance, rule: PanopticRule
) -> Part:
    """Compare ``panoptic_seg`` and ``segments_info``.

    Segments of one category are the same where they overlap by more than half (Kirillov et al. 2019), which
    is one to one; things must be the same detections, too. A segment that only one side has is excused, and
    its pixels with it, within the tolerance of what decided it: the score threshold of things or how much of
    them others had taken, the least area of stuff. The areas in ``segments_info`` are those of
    ``panoptic_seg``, so its tolerance is theirs.
    """
    first, second = Segments.of(expected), Segments.of(actual)
    same = match_segments(first, second)
    margin_px = tolerance.panoptic_ratio * first.ids.size
    missing = {id for id in first.info if id not in same}
    extra = {id for id in second.info if id not in same.values()}
    excused = [
        [id for id in ids if _is_borderline(side, id, rule, tolerance)]
        for side, ids in ((first, missing), (second, extra))
    ]
    left_out = np.isin(first.ids, excused[0]) | np.isin(second.ids, excused[1])
    renamed = np.full(max(second.info, default=0) + 1, -1)
    renamed[[0, *same.values()]] = [0, *same]
    differing = int(np.count_nonzero((first.ids != renamed[second.ids]) & ~left_out))
    partners = dict(zip(matching.rows.tolist(), matching.columns.tolist(), strict=True))
    flips = (
        *(f"missing: {_describe(first.info[id])}" for id in sorted(missing - {*excused[0]})),
        *(f"extra: {_describe(second.info[id])}" for id in sorted(extra - {*excused[1]})),
        *(
            f"segments_info: {_describe(first.info[a])} is another detection"
            for a, b in same.items()
            if first.info[a]["isthing"]
            and partners.get(first.info[a]["instance_id"]) != second.info[b]["instance_id"]
        ),
    )
    count = first.ids.size
    drift = (f"panoptic_seg: {differing} of {count} px beyond the tolerance (limit {margin_px:.4g})",)
    ratio = differing / max(count, 1)
    return Part({"panoptic_error_ratio": ratio}, drift if differing > margin_px else (), flips)


def match_segments(first: Segments, second: Segments) -> dict[int, int]:
    """Ids in ``second`` by their partners' ids in ``first``: one category, an IoU of more than a half."""
    both, counts = np.unique(np.stack([first.ids, second.ids]).reshape(2, -1), axis=1, return_counts=True)
    areas = [dict(zip(*np.unique(side.ids, return_counts=True), strict=True)) for side in (first, second)]
    same = {}
    for (a, b), overlap in zip(both.T.tolist(), counts.tolist(), strict=True):
        union = areas[0][a] + areas[1][b] - overlap
        if a and b and _category(first.info[a]) == _category(second.info[b]) and 2 * overlap > union:
            same[a] = b
    # Stuff of no pixel, which things cover and no limit drops, overlaps nothing.
    unseen = [
        {_category(side.info[id]): id for id in side.info if id not in area}
        for side, area in zip((first, second), areas, strict=True)
    ]
    return same | {
        unseen[0][category]: unseen[1][category] for category in unseen[0].keys() & unseen[1].keys()
    }


def _category(segment: dict[str, Any]) -> tuple[bool, int]:
    return segment["isthing"], segment["category_id"]


def _is_borderline(side: Segments, id: int, rule: PanopticRule, tolerance: Tolerance) -> bool:
    """Whether rounding may have decided that this segment is there: see ``compare_panoptic``."""
    segment = side.info[id]
    if not segment["isthing"]:
        margin_px = tolerance.panoptic_ratio * side.ids.size
        return bool(abs(segment["area"] - rule.stuff_area_limit) <= margin_px)
    mask = side.masks[segment["instance_id"]]
    area = np.count_nonzero(mask)
    # Things come in the order of their ids, before all stuff.
    taken = np.count_nonzero(mask & (side.ids > 0) & (side.ids < id))
    margin_px = max(tolerance.mask_px, tolerance.mask_area_ratio * area)
    return bool(
        abs(segment["score"] - rule.instances_score_threshold) <= tolerance.score
        or abs(taken - rule.overlap_threshold * area) <= margin_px
    )


def _describe(segment: dict[str, Any]) -> str:
    if segment["isthing"]:
        return f"segment of class {segment['category_id']}, score {segment['score']:.4f}"
    return f"segment of stuff {segment['category_id']}, {segment['area']} px"
