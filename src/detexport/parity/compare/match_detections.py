"""Pair the detections or proposals of both sides; find the missing and the extra ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from detexport.contract import Contract
from detexport.outputs import Outputs, axis_aligned, box_corners, is_rotated
from detexport.parity.compare.field_comparison import FieldComparison, absolute_errors, beyond, largest
from detexport.parity.compare.noise import ANOTHER_PX, MARGIN, MOST_WIDENED, Noise
from detexport.parity.compare.tolerance import Tolerance

SAME_SIZE_PX = 0.01
"""Boxes of equal score whose sides differ by no more are copies of one object."""

WIDEST_IOU = 0.05
"""Rounding moves an IoU by less, however small the box."""

SCALED_PX = 1e-3
"""Coordinates up to 8192 px, scaled in float32 after NMS, are rounded by less."""

MOST_DESCRIBED = 5
"""Most detections that reasons describe; ``missing`` and ``extra`` in the JSON have all."""

OWN_RUNS = "the model's own runs disagree"
"""Decider of an undetermined detection."""


@dataclass(frozen=True)
class Rows:
    """Scored boxes of one image, best first: detections, or proposals, which are all of one class.

    Args:
        boxes: (R, 4) XYXY in px of the output; of a rotated box the smallest XYXY box around it.
        scores: (R,) confidences, or objectness logits.
        classes: (R,).
        rotated: (R, 5) the rotated boxes; None if the boxes are XYXY.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    rotated: np.ndarray | None = None

    @property
    def coordinates(self) -> np.ndarray:
        """Return the coordinates in px (R, D) that are compared; of a rotated box, its four corners."""
        return self.boxes if self.rotated is None else box_corners(self.rotated).reshape(-1, 8)

    def overlap(self, index: int, other: "Rows", chosen: np.ndarray) -> np.ndarray:
        """Return the IoU of row ``index`` with the ``chosen`` rows of another side."""
        if self.rotated is None or other.rotated is None:
            return box_iou(self.boxes[index][None], other.boxes[chosen])[0]
        return rotated_iou(self.rotated[index], other.rotated[chosen])

    @classmethod
    def of(cls, outputs: Outputs) -> "Rows":
        """Take the detections, or the proposals, from an image's outputs."""
        if "scores" in outputs:
            boxes, others = outputs["pred_boxes"], (outputs["scores"], outputs["pred_classes"])
            return cls(axis_aligned(boxes), *others, boxes if is_rotated(boxes) else None)
        logits = outputs["objectness_logits"]
        return cls(outputs["proposal_boxes"], logits, np.zeros(len(logits), np.int64))


@dataclass(frozen=True)
class OneSided:
    """A missing or an extra detection.

    Args:
        index: its index in its own side's list.
        pred_class: index of its class.
        score: its score.
        box: XYXY in px of the output.
        decider: the decision that excluded it on the other side.
        distance: distance to that decision, in score, IoU or px.
        excused: whether rounding may explain it, or it is undetermined.
        undetermined: whether the eager model's own runs disagree about it.
    """

    index: int
    pred_class: int
    score: float
    box: tuple[float, ...]
    decider: str
    distance: float
    excused: bool
    undetermined: bool = False


@dataclass(frozen=True)
class Edges:
    """The decisions that exclude a row from a list, and the tolerances of each.

    Args:
        score: score threshold; None if there is none.
        iou: NMS threshold within a class; None if there is none.
        longest: most rows of a list; negative: no limit.
        tie: scores that differ by no more are equal.
        limit_px: coordinates that differ by no more are equal.
    """

    score: float | None
    iou: float | None
    longest: int
    tie: float
    limit_px: float


@dataclass(frozen=True)
class Matching:
    """The rows of two sides, paired one to one.

    Args:
        rows: indices of the pairs in the eager model's list, ascending.
        columns: indices of their partners in the runtime's.
        missing: rows of the eager model only.
        extra: rows of the runtime only.
        box_errors: largest error of a coordinate of each pair, in px of the output; empty if not measured.
        score_errors: error of the score, or of the objectness logit, of each pair; empty if not measured.
        is_confidence: whether the scores are confidences; those of proposals are logits.
    """

    rows: np.ndarray
    columns: np.ndarray
    missing: tuple[OneSided, ...] = ()
    extra: tuple[OneSided, ...] = ()
    box_errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    score_errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    is_confidence: bool = True


NO_ROWS = Matching(np.zeros(0, np.int64), np.zeros(0, np.int64))


def match(
    expected: Outputs,
    actual: Outputs,
    *,
    tolerance: Tolerance,
    contract: Contract,
    scale: float,
    noise: Noise | None = None,
    own: bool = False,
) -> tuple[Matching, FieldComparison]:
    """Pair detections, or proposals, and measure their boxes and scores.

    Detections are paired one to one by class and IoU, since equal scores may swap places. A missing or extra
    detection is excused within the tolerance of the decision that excluded it: the score threshold, the
    lowest score of a full list, the IoU with a better detection, or an empty box; and if it is undetermined.

    Args:
        expected: the eager model's.
        actual: the runtime's.
        tolerance: the limits.
        contract: thresholds and maximum number of detections.
        scale: output size / input size, the larger of both sides.
        noise: differences between the model's own runs on this input, if known.
        own: whether ``actual`` is another run of the eager model itself.
    """
    first, second = Rows.of(expected), Rows.of(actual)
    # Proposals have objectness logits, and no threshold.
    is_confidence = "scores" in expected
    tie = _tie(tolerance, is_confidence=is_confidence)
    name = "scores" if is_confidence else "objectness_logits"
    limit_px = tolerance.limit("box_px", scale)
    rows, columns = pair(first, second, tolerance.pair_iou, limit_px=limit_px, tie=tie)

    box_errors = absolute_errors(first.coordinates[rows], second.coordinates[columns]).max(1, initial=0)
    score_errors = absolute_errors(first.scores[rows], second.scores[columns])
    is_open = [np.zeros(len(side.scores), bool) for side in (first, second)]
    same = np.ones(len(rows), bool)
    if own:
        same = (box_errors <= ANOTHER_PX * scale) & (score_errors <= MOST_WIDENED * MARGIN * tie)
    elif noise is not None:
        is_open = [noise.open_rows(side.scores, tie, of_reference=side is first) for side in (first, second)]
        # If a detection is undetermined, a pair whose box moved is one missing and one extra detection.
        same = ~is_open[0][rows] | ((box_errors <= limit_px) & (score_errors <= tie))
    rows, columns, box_errors, score_errors = (
        array[same] for array in (rows, columns, box_errors, score_errors)
    )
    edges = Edges(
        score=contract.score_threshold if is_confidence else None,
        iou=contract.nms_threshold,
        longest=contract.max_detections,
        tie=tie,
        limit_px=limit_px,
    )
    unpaired = np.setdiff1d(np.arange(len(first.scores)), rows)
    other_unpaired = np.setdiff1d(np.arange(len(second.scores)), columns)
    only_first = _one_sided(first, unpaired, second, other_unpaired, edges)
    only_second = _one_sided(second, other_unpaired, first, unpaired, edges)
    missing = tuple(_undetermined(one, is_open[0]) for one in only_first)
    extra = tuple(_undetermined(one, is_open[1]) for one in only_second)
    comparison = FieldComparison(
        errors={
            "box_error_px": largest(box_errors),
            "score_error" if is_confidence else "objectness_error": largest(score_errors),
        },
        numerics=(
            *beyond("boxes", "px", box_errors, np.full(len(rows), limit_px)),
            *beyond(name, "", score_errors, np.full(len(rows), tie)),
            *_swapped(first.scores, rows, columns, tie),
        ),
        matching=(
            *_described("missing", missing),
            *_described("extra", extra),
            *_implausible(second, noise),
        ),
        broken=_too_many(second, contract.max_detections),
    )
    return Matching(rows, columns, missing, extra, box_errors, score_errors, is_confidence), comparison


def count_agreeing(matching: Matching, tolerance: Tolerance, scale: float) -> int:
    """Count the pairs whose box and score differ by at most ``MOST_WIDENED`` times the tolerance.

    Args:
        matching: the pairs.
        tolerance: the tolerance, not widened to the model's own noise.
        scale: output size / input size, the larger of both sides.
    """
    box_limit, tie = tolerance.limit("box_px", scale), _tie(tolerance, is_confidence=matching.is_confidence)
    agree = (matching.box_errors <= MOST_WIDENED * box_limit) & (matching.score_errors <= MOST_WIDENED * tie)
    return int(np.count_nonzero(agree))


def _tie(tolerance: Tolerance, *, is_confidence: bool) -> float:
    """Return the limit of the scores, or of the objectness logits of proposals."""
    return tolerance.score if is_confidence else tolerance.objectness


def pair(
    expected: Rows, actual: Rows, least_iou: float, *, limit_px: float, tie: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pair boxes of one class one to one: first equal ones, then as many as overlap enough.

    In a crowd, pairing as many as possible at once would shift a chain of neighbours for one missing box.

    Args:
        expected: the one side.
        actual: the other.
        least_iou: boxes with a smaller IoU are different objects.
        limit_px: boxes whose coordinates differ by no more are equal, if their scores are, too.
        tie: scores that differ by no more are equal.

    Returns:
        Indices into ``expected``, ascending, and of their partners in ``actual``.
    """
    iou = box_iou(expected.boxes, actual.boxes)
    score_errors = absolute_errors(expected.scores[:, None], actual.scores[None])
    allowed = (expected.classes[:, None] == actual.classes[None]) & (iou >= least_iou)
    box_errors = absolute_errors(expected.coordinates[:, None], actual.coordinates[None]).max(-1)
    # The largest IoU first; between copies of one box the nearest score.
    cost = 1 - iou + np.minimum(score_errors, 1)
    rows, columns = _assign(cost, allowed & (box_errors <= limit_px) & (score_errors <= tie))
    allowed[rows] = allowed[:, columns] = False
    others = _assign(cost, allowed)
    rows, columns = np.append(rows, others[0]), np.append(columns, others[1])
    order = np.argsort(rows)
    return rows[order], columns[order]


def _assign(cost: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest one-to-one assignment of allowed pairs (N, M), with the lowest total cost.

    Args:
        cost: (N, M), of an allowed pair at most 2.
        allowed: (N, M) bool.
    """
    # One pair that is not allowed costs more than all allowed ones together.
    rows, columns = linear_sum_assignment(np.where(allowed, cost, 2 * sum(cost.shape) + 1))
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes (N, 4) and (M, 4) XYXY: (N, M) float64; 1 for two equal boxes without area."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides.prod(-1)
    union = box_area(a) + box_area(b) - intersection
    without_area = (a == b).all(-1).astype(np.float64)
    iou: np.ndarray = np.divide(intersection, union, out=without_area, where=union > 0)
    return iou


def rotated_iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU (M,) float64 of a rotated box (5,) with others (M, 5)."""
    corners, rest = box_corners(box[None])[0], box_corners(others)
    common = np.array([_polygon_area(_clipped(corners, other)) for other in rest])
    areas = box[2] * box[3] + others[:, 2].astype(np.float64) * others[:, 3] - common
    iou: np.ndarray = np.divide(common, areas, out=np.zeros(len(others)), where=areas > 0)
    return iou


def _clipped(polygon: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the part (V, 2) of a convex polygon inside another (Sutherland and Hodgman 1974)."""
    for start, end in zip(others, np.roll(others, -1, axis=0), strict=True):
        side = end - start
        inside = side[0] * (polygon[:, 1] - start[1]) - side[1] * (polygon[:, 0] - start[0])
        kept = []
        for index, here in enumerate(inside):
            before = inside[index - 1]
            if before * here < 0:
                step = polygon[index] - polygon[index - 1]
                kept.append(polygon[index - 1] + step * (before / (before - here)))
            if here >= 0:
                kept.append(polygon[index])
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def _polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2)


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Return the area of boxes (..., 4) XYXY in px; 0 if x1 < x0 or y1 < y0."""
    area: np.ndarray = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)
    return area


def _lowest_kept(side: Rows, max_detections: int) -> float | None:
    """Return the lowest score of a full list; None if the list is not full."""
    return float(side.scores[-1]) if len(side.scores) >= max_detections > 0 else None


def _one_sided(
    side: Rows, unpaired: np.ndarray, other: Rows, other_unpaired: np.ndarray, edges: Edges
) -> Iterator[OneSided]:
    """Yield the rows of ``side`` without a counterpart in ``other``, with the decision that excluded each."""
    for index in unpaired.tolist():
        deciders = [
            *_deciders(side, index, unpaired, other, other_unpaired, edges),
            *_equals(side, index, unpaired, other, other_unpaired, edges),
        ]
        name, distance, limit = min(deciders, key=lambda decider: decider[1] - decider[2])
        yield OneSided(
            index=index,
            pred_class=int(side.classes[index]),
            score=float(side.scores[index]),
            box=tuple(side.boxes[index].tolist()),
            decider=name,
            distance=distance,
            excused=distance <= limit,
        )


def _equals(
    side: Rows, index: int, unpaired: np.ndarray, other: Rows, other_unpaired: np.ndarray, edges: Edges
) -> Iterator[tuple[str, float, float]]:
    """Yield the decision between equal rows: a full list inside the model may leave out any of them.

    It applies if the other side has an unpaired copy instead, and at least as many copies on this side are
    paired as unpaired: a truncated list loses some of them, an artifact that misplaces objects most.
    """
    copies = _score_distances(side, index, side)
    copies[index] = np.inf
    is_unpaired = np.isin(np.arange(len(copies)), unpaired)
    replacements = _score_distances(side, index, other)[other_unpaired]
    distance = max(copies[~is_unpaired].min(initial=np.inf), replacements.min(initial=np.inf))
    kept, lost = (np.count_nonzero(copies[which] <= edges.tie) for which in (~is_unpaired, is_unpaired))
    if np.isfinite(distance) and kept > lost:
        yield "an equal detection", float(distance), edges.tie


def _score_distances(side: Rows, index: int, other: Rows) -> np.ndarray:
    """Return the distances of the scores of ``other`` from a row's; infinite for another class or size."""
    size, sizes = (boxes[..., 2:] - boxes[..., :2] for boxes in (side.boxes[index], other.boxes))
    same = (other.classes == side.classes[index]) & (np.abs(sizes - size).max(-1, initial=0) <= SAME_SIZE_PX)
    return np.where(same, absolute_errors(other.scores, side.scores[index]), np.inf)


def _deciders(
    side: Rows, index: int, unpaired: np.ndarray, other: Rows, other_unpaired: np.ndarray, edges: Edges
) -> Iterator[tuple[str, float, float]]:
    """Yield the decisions that may have excluded a row on the other side: name, distance, tolerance.

    A better row counts for the IoU only if it is paired: an object that moved must not be excused by the
    overlap with itself. Proposals are suppressed by level, which no output has. A side keeps no two proposals
    of one level that overlap by more than the threshold, so a rival that does is of another level.
    """
    box, score = side.boxes[index], float(side.scores[index])
    least_side = float((box[2:] - box[:2]).min())
    yield "an empty box", least_side, edges.limit_px
    if edges.score is not None:
        yield "the score threshold", abs(score - edges.score), edges.tie
    lowest_kept = _lowest_kept(other, edges.longest)
    if lowest_kept is not None:
        yield "the lowest score kept", abs(score - lowest_kept), edges.tie
    if edges.iou is not None and least_side > 0:
        is_proposal = edges.score is None
        holder, excluded = (side, unpaired) if is_proposal else (other, other_unpaired)
        rivals = (holder.classes == side.classes[index]) & (holder.scores >= score - edges.tie)
        rivals[excluded] = False
        overlaps = side.overlap(index, holder, rivals)
        if is_proposal:
            overlaps = overlaps[overlaps <= edges.iou + 4 * SCALED_PX / least_side]
        distances = np.abs(overlaps - edges.iou)
        if distances.size:
            # Each edge of both boxes may have an error of the limit: that moves the IoU by about so much.
            limit = min(4 * edges.limit_px / least_side, WIDEST_IOU)
            yield "the IoU threshold", float(distances.min()), limit


def _described(side: str, unpaired: Sequence[OneSided]) -> list[str]:
    """Describe the detections that are not excused, ``MOST_DESCRIBED`` of them, and count the others."""
    faults = [one for one in unpaired if not one.excused]
    left = len(faults) - MOST_DESCRIBED
    more = [f"{side}: {left} more detections"] if left > 0 else []
    return [*(f"{side}: {_describe(one)}" for one in faults[:MOST_DESCRIBED]), *more]


def _describe(one: OneSided) -> str:
    box = ", ".join(f"{value:.1f}" for value in one.box)
    return (
        f"class {one.pred_class}, score {one.score:.4f}, box [{box}], {one.distance:.3g} from {one.decider}"
    )


def _swapped(scores: np.ndarray, rows: np.ndarray, columns: np.ndarray, tie: float) -> list[str]:
    """Describe pairs in another order whose scores (the eager model's) are not tied."""
    kept = scores[rows].astype(np.float64)
    later = np.arange(len(rows))[:, None] < np.arange(len(rows))[None]
    swapped = later & (columns[:, None] > columns[None]) & (kept[:, None] - kept[None] > tie)
    count = int(np.count_nonzero(swapped))
    return [f"order: {count} pairs of detections are swapped, and their scores are not tied"] if count else []


def _undetermined(one: OneSided, is_open: np.ndarray) -> OneSided:
    """Excuse a missing or extra detection as undetermined, unless it is excused already."""
    if one.excused or not is_open[one.index]:
        return one
    return replace(one, decider=OWN_RUNS, distance=0.0, excused=True, undetermined=True)


def _implausible(side: Rows, noise: Noise | None) -> tuple[str, ...]:
    """Describe a number of detections that is far from those of the model's own runs."""
    if noise is None or not noise.scores:
        return ()
    (fewest, most), count = noise.plausible_counts, len(side.scores)
    if fewest <= count <= most:
        return ()
    return ("{} detections, the model's own runs have {} to {}".format(count, *noise.counts),)


def _too_many(side: Rows, max_detections: int) -> tuple[str, ...]:
    count = len(side.scores)
    return (
        (f"{count} detections, the contract declares at most {max_detections}",)
        if count > max_detections >= 0
        else ()
    )
