"""Detections or proposals: which are the same on both sides, and what only one side has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from detexport.contract import Contract
from detexport.outputs import Outputs
from detexport.parity.compare.noise import ANOTHER_PX, MARGIN, MOST_WIDENED, Noise
from detexport.parity.compare.part import Part, beyond, differences, largest
from detexport.parity.compare.tolerance import Tolerance

SAME_SIZE_PX = 0.01
"""Boxes whose sides differ by no more are copies of one another, if their scores are equal."""

WIDEST_IOU = 0.05
"""An overlap this far from the threshold was not decided by rounding, however small the box."""

SCALED_PX = 1e-3
"""Coordinates up to 8192 px, scaled in float32 after the suppression, are rounded by less."""

MOST_DESCRIBED = 5
"""Detections that a reason describes; the JSON's ``missing`` and ``extra`` have all."""

OWN_RUNS = "what the model's own runs agree about"
"""Decider of a detection that is undetermined."""


@dataclass(frozen=True)
class Rows:
    """Scored boxes of one image, best first: detections, or proposals, which are all of one class.

    Args:
        boxes: (R, 4) XYXY in px of the output.
        scores: (R,) confidences, or logits of holding an object.
        classes: (R,).
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, outputs: Outputs) -> "Rows":
        """An image's detections, or its proposals."""
        if "scores" in outputs:
            return cls(outputs["pred_boxes"], outputs["scores"], outputs["pred_classes"])
        logits = outputs["objectness_logits"]
        return cls(outputs["proposal_boxes"], logits, np.zeros(len(logits), np.int64))


@dataclass(frozen=True)
class OneSided:
    """A detection that only one side has.

    Args:
        index: its place in its own side's list.
        pred_class: index of its class.
        score: its score.
        box: XYXY in px of the output.
        decider: what decided it.
        distance: how far it lies from that, in score or in px.
        excused: whether that is so near that rounding may flip it, or the detection is undetermined.
        undetermined: whether the eager model's own runs do not agree about such a detection.
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
    """What decides that a row is in a list, and how near to it rounding may decide otherwise.

    Args:
        score: a row's score is greater; none where there is no such threshold.
        iou: a row that overlaps a better one of its class by more is dropped; likewise.
        longest: a list holds so many rows at most; negative: any number.
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
        missing: only the eager model has them.
        extra: only the runtime has them.
    """

    rows: np.ndarray
    columns: np.ndarray
    missing: tuple[OneSided, ...] = ()
    extra: tuple[OneSided, ...] = ()


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
) -> tuple[Matching, Part]:
    """Pair detections, or proposals, and measure their boxes and scores.

    Detections are paired one to one by class and IoU, since equal scores may swap places. One that only one
    side has is excused within the tolerance of what decided it: the score threshold, the least score that the
    other side kept where its list is full, the overlap with a better detection that drops it, or the
    emptiness of a box that is a sliver; and where the model's own runs do not determine it.

    Args:
        expected: the eager model's.
        actual: the runtime's.
        tolerance: the limits.
        contract: thresholds and longest list.
        scale: output size / input size, the larger of both sides.
        noise: what the model's own runs leave undetermined on this input, where that is known.
        own: whether ``actual`` is another run of the eager model itself.
    """
    first, second = Rows.of(expected), Rows.of(actual)
    # Proposals have a score of another kind, and no threshold.
    is_confidence = "scores" in expected
    tie = tolerance.score if is_confidence else tolerance.objectness
    name = "scores" if is_confidence else "objectness_logits"
    limit_px = tolerance.box_limit_px(scale)
    rows, columns = pair(first, second, tolerance.pair_iou, limit_px=limit_px, tie=tie)

    box_errors = differences(first.boxes[rows], second.boxes[columns]).max(1, initial=0)
    score_errors = differences(first.scores[rows], second.scores[columns])
    is_open = [np.zeros(len(side.scores), bool) for side in (first, second)]
    same = np.ones(len(rows), bool)
    if own:
        same = (box_errors <= ANOTHER_PX * scale) & (score_errors <= MOST_WIDENED * MARGIN * tie)
    elif noise is not None:
        is_open = [noise.open_rows(side.scores, tie, of_reference=side is first) for side in (first, second)]
        # A pair whose box moved is two candidates where the model itself takes now one, now the other.
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
    lost = np.setdiff1d(np.arange(len(first.scores)), rows)
    invented = np.setdiff1d(np.arange(len(second.scores)), columns)
    missing = tuple(_left_open(one, is_open[0]) for one in _one_sided(first, lost, second, invented, edges))
    extra = tuple(_left_open(one, is_open[1]) for one in _one_sided(second, invented, first, lost, edges))
    part = Part(
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
    return Matching(rows, columns, missing, extra), part


def pair(
    expected: Rows, actual: Rows, least_iou: float, *, limit_px: float, tie: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pair boxes of one class one to one: first those that are the same, then as many as overlap enough.

    Where boxes are crowded, pairing as many as possible at once would shift a whole chain of neighbours for
    one box that is there on one side only.

    Args:
        expected: the one side.
        actual: the other.
        least_iou: boxes that overlap less are of different objects.
        limit_px: boxes whose coordinates differ by no more are the same, if their scores are, too.
        tie: scores that differ by no more are the same.

    Returns:
        Indices into ``expected``, ascending, and of their partners in ``actual``.
    """
    iou = box_iou(expected.boxes, actual.boxes)
    apart = differences(expected.scores[:, None], actual.scores[None])
    allowed = (expected.classes[:, None] == actual.classes[None]) & (iou >= least_iou)
    edges_px = differences(expected.boxes[:, None], actual.boxes[None]).max(-1)
    # Of overlaps the best; the score decides between copies of one box.
    cost = 1 - iou + np.minimum(apart, 1)
    rows, columns = _assign(cost, allowed & (edges_px <= limit_px) & (apart <= tie))
    allowed[rows] = allowed[:, columns] = False
    others = _assign(cost, allowed)
    rows, columns = np.append(rows, others[0]), np.append(columns, others[1])
    order = np.argsort(rows)
    return rows[order], columns[order]


def _assign(cost: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many allowed pairs (N, M) as there can be, one to one, and of all such choices the cheapest.

    Args:
        cost: (N, M), of an allowed pair at most 2.
        allowed: (N, M) bool.
    """
    # One pair that is not allowed is dearer than all allowed ones together.
    rows, columns = linear_sum_assignment(np.where(allowed, cost, 2 * sum(cost.shape) + 1))
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) and (M, 4) XYXY: (N, M) float64; two equal boxes without area have IoU 1."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides.prod(-1)
    union = box_area(a) + box_area(b) - intersection
    without_area = (a == b).all(-1).astype(np.float64)
    iou: np.ndarray = np.divide(intersection, union, out=without_area, where=union > 0)
    return iou


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Area of boxes (..., 4) XYXY in px; that of a box turned inside out is 0."""
    area: np.ndarray = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)
    return area


def _lowest_kept(side: Rows, max_detections: int) -> float | None:
    """The score that a detection had to reach to be in a full list; ``None`` where the list is not full."""
    return float(side.scores[-1]) if len(side.scores) >= max_detections > 0 else None


def _one_sided(
    side: Rows, alone: np.ndarray, other: Rows, other_alone: np.ndarray, edges: Edges
) -> Iterator[OneSided]:
    """Yield the rows of ``side`` without a counterpart in ``other``, with the decision that excluded each."""
    for index in alone.tolist():
        deciders = [
            *_deciders(side, index, alone, other, other_alone, edges),
            *_equals(side, index, alone, other, other_alone, edges),
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
    side: Rows, index: int, alone: np.ndarray, other: Rows, other_alone: np.ndarray, edges: Edges
) -> Iterator[tuple[str, float, float]]:
    """Of equal rows, copies of one object, any may be left out where a list inside the model is full.

    It is so where this side has others that are equal, the other side kept an equal one in its place, and at
    least as many equal ones are where they are on the other side: a list that is cut loses some of them, an
    artifact that misplaces objects loses most.
    """
    twins = _apart(side, index, side)
    twins[index] = np.inf
    is_alone = np.isin(np.arange(len(twins)), alone)
    replacements = _apart(side, index, other)[other_alone]
    distance = max(twins[~is_alone].min(initial=np.inf), replacements.min(initial=np.inf))
    kept, lost = (np.count_nonzero(twins[which] <= edges.tie) for which in (~is_alone, is_alone))
    if np.isfinite(distance) and kept > lost:
        yield "an equal detection", float(distance), edges.tie


def _apart(side: Rows, index: int, other: Rows) -> np.ndarray:
    """How far the scores of ``other`` lie from a row's; infinite for those of another class or size."""
    size, sizes = (boxes[..., 2:] - boxes[..., :2] for boxes in (side.boxes[index], other.boxes))
    same = (other.classes == side.classes[index]) & (np.abs(sizes - size).max(-1, initial=0) <= SAME_SIZE_PX)
    return np.where(same, differences(other.scores, side.scores[index]), np.inf)


def _deciders(
    side: Rows, index: int, alone: np.ndarray, other: Rows, other_alone: np.ndarray, edges: Edges
) -> Iterator[tuple[str, float, float]]:
    """What may have decided that only ``side`` has a row, how far it is from that, how far it may be.

    A better row drops it whose partner is on its own side: an object that was moved must not be excused by
    the overlap with itself. Proposals are suppressed by level, which no output names; but of one level a side
    keeps no two that overlap by more than the threshold, so a rival that does is of another level.
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
        holder, unpaired = (side, alone) if is_proposal else (other, other_alone)
        rivals = (holder.classes == side.classes[index]) & (holder.scores >= score - edges.tie)
        rivals[unpaired] = False
        overlaps = box_iou(box[None], holder.boxes[rivals])[0]
        if is_proposal:
            overlaps = overlaps[overlaps <= edges.iou + 4 * SCALED_PX / least_side]
        apart = np.abs(overlaps - edges.iou)
        if apart.size:
            # Each edge of both boxes may lie a limit away: that moves the overlap by about so much.
            limit = min(4 * edges.limit_px / least_side, WIDEST_IOU)
            yield "the IoU threshold", float(apart.min()), limit


def _described(side: str, alone: Sequence[OneSided]) -> list[str]:
    """The detections that are not excused, some of them described, the others counted."""
    faults = [one for one in alone if not one.excused]
    left = len(faults) - MOST_DESCRIBED
    more = [f"{side}: {left} more detections"] if left > 0 else []
    return [*(f"{side}: {_describe(one)}" for one in faults[:MOST_DESCRIBED]), *more]


def _describe(one: OneSided) -> str:
    box = ", ".join(f"{value:.1f}" for value in one.box)
    return (
        f"class {one.pred_class}, score {one.score:.4f}, box [{box}], {one.distance:.3g} from {one.decider}"
    )


def _swapped(scores: np.ndarray, rows: np.ndarray, columns: np.ndarray, tie: float) -> list[str]:
    """Pairs whose order differs on the two sides although their scores (the eager model's) are no tie."""
    kept = scores[rows].astype(np.float64)
    later = np.arange(len(rows))[:, None] < np.arange(len(rows))[None]
    swapped = later & (columns[:, None] > columns[None]) & (kept[:, None] - kept[None] > tie)
    count = int(np.count_nonzero(swapped))
    return [f"order: {count} pairs of detections swapped places without a tie"] if count else []


def _left_open(one: OneSided, is_open: np.ndarray) -> OneSided:
    """The judgement of a detection that one side alone has, or that it is undetermined."""
    if one.excused or not is_open[one.index]:
        return one
    return replace(one, decider=OWN_RUNS, distance=0.0, excused=True, undetermined=True)


def _implausible(side: Rows, noise: Noise | None) -> tuple[str, ...]:
    """Say that a side has a number of detections that none of the model's own runs comes near to."""
    if noise is None or not noise.scores:
        return ()
    (fewest, most), count = noise.plausible_counts, len(side.scores)
    return (
        () if fewest <= count <= most else (f"{count} detections, the model's own runs give {noise.counts}",)
    )


def _too_many(side: Rows, max_detections: int) -> tuple[str, ...]:
    count = len(side.scores)
    return (f"{count} detections, at most {max_detections} promised",) if count > max_detections >= 0 else ()
