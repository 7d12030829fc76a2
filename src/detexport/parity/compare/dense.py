"""Compare semantic and panoptic segmentation."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detexport.contract import PanopticRule
from detexport.outputs import Outputs
from detexport.parity.compare.field_comparison import FieldComparison
from detexport.parity.compare.match_detections import Matching
from detexport.parity.compare.noise import Noise
from detexport.parity.compare.tolerance import Tolerance


def compare_sem_seg(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> FieldComparison:
    """Compare logits (C, H, W), class by class: all errors at once would need as much memory again.

    Pixels with another class (of the highest logit) are counted without a limit: within the tolerance of the
    logits a class changes only if two are almost equal.
    """
    worst, count = 0.0, 0
    sides = Labels(expected.shape[1:]), Labels(expected.shape[1:])
    for first, second in zip(expected, actual, strict=True):
        errors = np.abs(first.astype(np.float64) - second)
        worst = max(worst, float(errors.max(initial=0)))
        count += int(np.count_nonzero(errors > tolerance.sem_seg))
        for side, logits in zip(sides, (first, second), strict=True):
            side.add(logits)
    relabelled = np.count_nonzero(sides[0].labels != sides[1].labels)
    numerics = (
        f"sem_seg: {count} of {expected.size} logits beyond the tolerance, worst {worst:.4g} "
        f"(limit {tolerance.sem_seg:.4g})",
    )
    errors_by_name = {
        "sem_seg_error": worst,
        "sem_seg_class_ratio": relabelled / max(sides[0].labels.size, 1),
    }
    return FieldComparison(errors_by_name, numerics if count else ())


class Labels:
    """The class with the highest logit of each pixel, the first of equal ones, class by class.

    Args:
        shape: height and width.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.labels = np.zeros(shape, np.int32)
        self._highest = np.full(shape, -np.inf, np.float32)
        self._seen = 0

    def add(self, logits: np.ndarray) -> None:
        """Add the next class's logits (H, W)."""
        higher = logits > self._highest
        self.labels[higher] = self._seen
        np.copyto(self._highest, logits, where=higher)
        self._seen += 1


@dataclass(frozen=True)
class PanopticSegments:
    """A panoptic segmentation.

    Args:
        ids: (H, W) id of each pixel's segment, 0 for none.
        info: each segment's dict by its id.
        masks: (R, H, W) bool, of the detections.
        scores: (R,) of the detections, descending.
    """

    ids: np.ndarray
    info: dict[int, dict[str, Any]]
    masks: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, outputs: Outputs) -> "PanopticSegments":
        """Take the segments from an image's outputs."""
        info = {one["id"]: one for one in outputs["segments_info"]}
        return cls(outputs["panoptic_seg"], info, outputs["pred_masks"], outputs["scores"])

    @property
    def order(self) -> list[int]:
        """Return the ids, ascending; 0, for no segment, is the first."""
        return sorted({0, *self.info})

    def tied(self, index: int, tie: float) -> np.ndarray:
        """Return the indices of the other detections whose score is within ``tie`` of one's."""
        near = np.abs(self.scores.astype(np.float64) - float(self.scores[index])) <= tie
        near[index] = False
        return np.flatnonzero(near)

    def disputed(self, one: int, other: int) -> np.ndarray:
        """Return the pixels (H, W) bool in the masks of two detections and in the segment of one."""
        segments = {segment.get("instance_id"): id for id, segment in self.info.items()}
        # No segment has the id -1: a thing that is dropped has no pixel.
        owners = [segments.get(index, -1) for index in (one, other)]
        return self.masks[one] & self.masks[other] & ((self.ids == owners[0]) | (self.ids == owners[1]))


@dataclass(frozen=True)
class PanopticComparison(FieldComparison):
    """The comparison of panoptic segments.

    Args:
        segments: missing and extra segments that are not excused: whether it is a thing, its category.
    """

    segments: tuple[tuple[bool, int], ...] = ()


def compare_panoptic(
    expected: Outputs,
    actual: Outputs,
    matching: Matching,
    tolerance: Tolerance,
    rule: PanopticRule,
    noise: Noise | None = None,
) -> PanopticComparison:
    """Compare ``panoptic_seg`` and ``segments_info``.

    Segments of one category are paired if their IoU is more than 0.5 (Kirillov et al. 2019), which is one to
    one; things must be paired detections, too. Pixels that things of equal score both claim are not counted.
    A missing or extra segment is excused, with its pixels, within the tolerance of the decision that excluded
    it: the score threshold of things, the overlap of things with others, the smallest area of stuff; and if
    its detection is excused, or the model's own runs disagree about it. Areas in ``segments_info`` are those
    of ``panoptic_seg`` and have no tolerance of their own.
    """
    first, second = PanopticSegments.of(expected), PanopticSegments.of(actual)
    partners = dict(zip(matching.rows.tolist(), matching.columns.tolist(), strict=True))
    either = find_disputed(first, second, partners, tolerance.score)
    overlap = count_overlap(first, second)
    undisputed = count_overlap(first, second, ~either) if either.any() else overlap
    same = pair_segments(first, second, undisputed)
    margin_px = tolerance.panoptic_ratio * first.ids.size
    missing = {id for id in first.info if id not in same}
    extra = {id for id in second.info if id not in same.values()}
    undetermined = noise.segments if noise else ()
    excused_rows = [{one.index for one in side if one.excused} for side in (matching.missing, matching.extra)]
    excused = [
        [
            id
            for id in ids
            if side.info[id].get("instance_id") in detections
            or _category(side.info[id]) in undetermined
            or _is_borderline(side, id, rule, tolerance)
        ]
        for side, ids, detections in ((first, missing, excused_rows[0]), (second, extra, excused_rows[1]))
    ]
    left_out = either | np.isin(first.ids, excused[0]) | np.isin(second.ids, excused[1])
    renamed = np.full(max(second.info, default=0) + 1, -1)
    renamed[[0, *same.values()]] = [0, *same]
    differing = int(np.count_nonzero((first.ids != renamed[second.ids]) & ~left_out))
    missing_ids, extra_ids = sorted(missing - {*excused[0]}), sorted(extra - {*excused[1]})
    unmatched = (
        *(f"missing: {_describe(first.info[id])}" for id in missing_ids),
        *(f"extra: {_describe(second.info[id])}" for id in extra_ids),
        *(
            f"segments_info: {_describe(first.info[a])} belongs to another detection"
            for a, b in same.items()
            if first.info[a]["isthing"]
            and first.info[a]["instance_id"] not in excused_rows[0]
            and partners.get(first.info[a]["instance_id"]) != second.info[b]["instance_id"]
        ),
    )
    count = first.ids.size
    numerics = (f"panoptic_seg: {differing} of {count} px beyond the tolerance (limit {margin_px:.4g})",)
    errors = {
        "panoptic_error_ratio": differing / max(count, 1),
        "panoptic_quality_error": 1 - panoptic_quality(first, second, overlap),
    }
    return PanopticComparison(
        errors,
        numerics if differing > margin_px else (),
        unmatched,
        segments=(
            *(_category(first.info[id]) for id in missing_ids),
            *(_category(second.info[id]) for id in extra_ids),
        ),
    )


def find_disputed(
    first: PanopticSegments, second: PanopticSegments, partners: dict[int, int], tie: float
) -> np.ndarray:
    """Return the pixels (H, W) bool that may belong to either of two things.

    Things claim pixels in the order of their scores. Of two equal scores either may come first, so the pixels
    that both claim may belong to the one on one side and to the other on the other side.

    Args:
        first: the eager model's.
        second: the runtime's.
        partners: indices of the runtime's detections by those of the eager model's.
        tie: scores of the eager model that differ by no more are equal.
    """
    either = np.zeros(first.ids.shape, bool)
    for one in partners:
        for other in first.tied(one, tie).tolist():
            if one < other and other in partners:
                on_both = first.disputed(one, other)
                if on_both.any():
                    either |= on_both & second.disputed(partners[one], partners[other])
    return either


def count_overlap(
    first: PanopticSegments, second: PanopticSegments, where: np.ndarray | None = None
) -> np.ndarray:
    """Count the pixels that each pair of segments shares: (F, S) int64, in ``PanopticSegments.order``.

    Args:
        first: one side.
        second: the other.
        where: (H, W) bool, the pixels that count; by default all.
    """
    rows, columns = first.order, second.order
    pairs = np.searchsorted(rows, first.ids) * len(columns) + np.searchsorted(columns, second.ids)
    counted = pairs.ravel() if where is None else pairs[where]
    return np.bincount(counted, minlength=len(rows) * len(columns)).reshape(len(rows), len(columns))


def pair_segments(first: PanopticSegments, second: PanopticSegments, overlap: np.ndarray) -> dict[int, int]:
    """Pair segments of one category with an IoU above 0.5: ids in ``second`` by ids in ``first``.

    Args:
        first: one side.
        second: the other.
        overlap: see ``count_overlap``.
    """
    areas = overlap.sum(1), overlap.sum(0)
    ids = first.order, second.order
    more_than_half = 3 * overlap > areas[0][:, None] + areas[1][None]
    same = {
        ids[0][row]: ids[1][column]
        for row, column in np.argwhere(more_than_half[1:, 1:]) + 1
        if _category(first.info[ids[0][row]]) == _category(second.info[ids[1][column]])
    }
    # Stuff without pixels, covered by things and not dropped, overlaps nothing.
    unseen = [
        {_category(side.info[id]): id for id in side.info if not side.info[id].get("area", 1)}
        for side in (first, second)
    ]
    return same | {
        unseen[0][category]: unseen[1][category] for category in unseen[0].keys() & unseen[1].keys()
    }


def panoptic_quality(first: PanopticSegments, second: PanopticSegments, overlap: np.ndarray) -> float:
    """Return the PQ of one side's segments with the other's as ground truth; 1 if there are none.

    The mean over the categories (Kirillov et al. 2019), symmetric in the sides. Void pixels of one side are
    not left out.

    Args:
        first: one side.
        second: the other.
        overlap: of all pixels: see ``count_overlap``.
    """
    same = pair_segments(first, second, overlap)
    areas = overlap.sum(1), overlap.sum(0)
    ids = first.order, second.order
    iou_sums: dict[tuple[bool, int], float] = {}
    segments: dict[tuple[bool, int], int] = {}
    for side in (first, second):
        for segment in side.info.values():
            segments[_category(segment)] = segments.get(_category(segment), 0) + 1
    for a, b in same.items():
        row, column = ids[0].index(a), ids[1].index(b)
        union = int(areas[0][row] + areas[1][column] - overlap[row, column])
        category = _category(first.info[a])
        # Stuff without pixels on both sides is equal.
        iou_sums[category] = iou_sums.get(category, 0.0) + (overlap[row, column] / union if union else 1.0)
    # TP + (FP + FN) / 2 is half the number of segments of both sides.
    qualities = [2 * iou_sums.get(category, 0.0) / count for category, count in segments.items()]
    return float(np.mean(qualities)) if qualities else 1.0


def _category(segment: dict[str, Any]) -> tuple[bool, int]:
    return segment["isthing"], segment["category_id"]


def _is_borderline(side: PanopticSegments, id: int, rule: PanopticRule, tolerance: Tolerance) -> bool:
    """Return whether rounding may explain that a segment exists: see ``compare_panoptic``.

    A margin in px is at most half of its limit, so that not every small segment is excused.
    """
    segment = side.info[id]
    if not segment["isthing"]:
        margin_px = min(tolerance.panoptic_ratio * side.ids.size, rule.stuff_area_limit / 2)
        return bool(abs(segment["area"] - rule.stuff_area_limit) <= margin_px)
    index = segment["instance_id"]
    mask = side.masks[index]
    area = np.count_nonzero(mask)
    # Things precede stuff, in the order of their ids; those of equal score may precede this one, too.
    taken = (side.ids > 0) & (side.ids < id)
    for other in side.tied(index, tolerance.score):
        taken |= side.masks[other]
    limit_px = rule.overlap_threshold * area
    margin_px = min(max(tolerance.mask_px, tolerance.mask_area_ratio * area), limit_px / 2)
    return bool(
        abs(segment["score"] - rule.instances_score_threshold) <= tolerance.score
        or np.count_nonzero(mask & taken) >= limit_px - margin_px
    )


def _describe(segment: dict[str, Any]) -> str:
    if segment["isthing"]:
        return f"segment of class {segment['category_id']}, score {segment['score']:.4f}"
    return f"segment of stuff {segment['category_id']}, {segment['area']} px"
