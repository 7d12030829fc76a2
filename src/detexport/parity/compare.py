"""Compare a runtime's detections on one image with the eager model's."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from detexport.errors import ConfigError
from detexport.parity.detections import Detections, field_faults


@dataclass(frozen=True)
class Tolerance:
    """How far an artifact may lie from the eager model.

    Args:
        box_px: of a box's coordinates, in px of the graph's input; in the output it grows with the scale.
        box_floor_px: of a box's coordinates, in px of the output, where the scale would ask for less.
        score: of a score; detections whose scores differ by no more are tied.
        mask_px: pixels of a mask that may differ, whatever its area.
        mask_area_ratio: part of a mask's area that may differ, where that is more.
        pair_iou: detections of one class that overlap less are different objects.
    """

    box_px: float
    box_floor_px: float
    score: float
    mask_px: float
    mask_area_ratio: float
    pair_iou: float

    def __post_init__(self) -> None:
        """Refuse limits that no error can exceed.

        Raises:
            ConfigError: a limit is not a finite number of at least 0, or the IoU is not in (0, 1].
        """
        wrong = {
            name: value
            for name, value in asdict(self).items()
            if not (math.isfinite(value) and value >= 0) or (name == "pair_iou" and not 0 < value <= 1)
        }
        if wrong:
            raise ConfigError(
                "a tolerance is not a limit",
                got=", ".join(f"{name}={value}" for name, value in wrong.items()),
                expected="finite numbers of at least 0; pair_iou above 0 and at most 1",
                remedy="correct parity.tolerance",
            )

    def box_limit_px(self, scale: float) -> float:
        """The limit in px of the output, ``scale`` being output size / input size."""
        return max(self.box_px * scale, self.box_floor_px)


@dataclass(frozen=True)
class OneSided:
    """A detection that only one side has.

    Args:
        index: its place in its own side's list.
        pred_class: index of its class.
        score: its score.
        box: XYXY in px of the output.
        excused: whether it lies so near to what decided it that rounding may flip it.
        why: what decided it, and how far away that is.
    """

    index: int
    pred_class: int
    score: float
    box: tuple[float, ...]
    excused: bool
    why: str


@dataclass(frozen=True)
class SampleParity:
    """The measurement of one image; errors are ``None`` where the fields could not be compared.

    Args:
        expected: number of the eager model's detections.
        actual: number of the runtime's.
        paired: number of pairs.
        missing: only the eager model has them.
        extra: only the runtime has them.
        max_box_error_px: largest difference of a coordinate, in px of the output.
        box_limit_px: what it is held against.
        max_score_error: largest difference of a score.
        max_mask_error_px: largest number of pixels in which two masks differ.
        max_mask_error_ratio: largest part of the expected mask's area (at least 1 px) that differs.
        reasons: why the image did not pass; empty where it did.
    """

    expected: int
    actual: int
    paired: int = 0
    missing: tuple[OneSided, ...] = ()
    extra: tuple[OneSided, ...] = ()
    max_box_error_px: float | None = None
    box_limit_px: float | None = None
    max_score_error: float | None = None
    max_mask_error_px: int | None = None
    max_mask_error_ratio: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything is within the tolerance."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The measurement as plain JSON values."""
        return {"passed": self.passed, **asdict(self)}


def compare(
    expected: Detections,
    actual: Detections,
    *,
    tolerance: Tolerance,
    score_threshold: float,
    max_detections: int,
    scale: float,
) -> SampleParity:
    """Measure how far a runtime's detections lie from the eager model's on one image.

    Detections are paired one to one by class and IoU, since equal scores may swap places. A detection that
    only one side has is excused within the tolerance of what decided it: the score threshold, the least score
    that the other side kept where its list is full, or the emptiness of a box that is a sliver.

    Args:
        expected: the eager model's, see ``Detections``.
        actual: the runtime's, in the same frame.
        tolerance: the limits.
        score_threshold: the contract's; scores are greater than this.
        max_detections: the contract's; the longest possible list.
        scale: output size / input size, the larger of both sides.
    """
    sizes: dict[str, Any] = {"expected": _count(expected), "actual": _count(actual)}
    faults = _field_faults(expected, actual)
    if faults:
        return SampleParity(**sizes, reasons=tuple(faults))

    rows, columns = pair(expected, actual, tolerance.pair_iou)
    limit_px = tolerance.box_limit_px(scale)
    decided: dict[str, Any] = {
        "tolerance": tolerance,
        "score_threshold": score_threshold,
        "limit_px": limit_px,
    }
    missing = _one_sided(expected, rows, _lowest_kept(actual, max_detections), **decided)
    extra = _one_sided(actual, columns, _lowest_kept(expected, max_detections), **decided)

    box_errors = _differences(expected["pred_boxes"][rows], actual["pred_boxes"][columns]).max(1, initial=0)
    score_errors = _differences(expected["scores"][rows], actual["scores"][columns])
    mask_errors, mask_areas = _mask_errors(expected, actual, rows, columns)
    mask_limits = np.maximum(tolerance.mask_px, tolerance.mask_area_ratio * mask_areas)
    return SampleParity(
        **sizes,
        paired=len(rows),
        missing=missing,
        extra=extra,
        max_box_error_px=float(box_errors.max(initial=0)),
        box_limit_px=limit_px,
        max_score_error=float(score_errors.max(initial=0)),
        max_mask_error_px=int(mask_errors.max(initial=0)),
        max_mask_error_ratio=float((mask_errors / np.maximum(mask_areas, 1)).max(initial=0)),
        reasons=(
            *_beyond("boxes", "px", box_errors, np.full(len(rows), limit_px)),
            *_beyond("scores", "", score_errors, np.full(len(rows), tolerance.score)),
            *_beyond("masks", "px", mask_errors, mask_limits),
            *(f"missing: {_describe(one)}" for one in missing if not one.excused),
            *(f"extra: {_describe(one)}" for one in extra if not one.excused),
            *_swapped(expected["scores"], rows, columns, tolerance.score),
            *_too_many(actual, max_detections),
        ),
    )


def pair(expected: Detections, actual: Detections, least_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair detections of one class one to one: as many as overlap enough, and of those the best overlaps.

    Returns:
        Indices into ``expected``, ascending, and of their partners in ``actual``.
    """
    iou = box_iou(expected["pred_boxes"], actual["pred_boxes"])
    apart = np.minimum(_differences(expected["scores"][:, None], actual["scores"][None]), 1)
    allowed = (expected["pred_classes"][:, None] == actual["pred_classes"][None]) & (iou >= least_iou)
    # An allowed pair costs at most 2: one that is not allowed is dearer than all allowed ones together. The
    # score decides between copies of one box.
    cost = np.where(allowed, 1 - iou + apart, 2 * sum(iou.shape) + 1)
    rows, columns = linear_sum_assignment(cost)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) and (M, 4) XYXY: (N, M) float64; two equal boxes without area have IoU 1."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides.prod(-1)
    union = _area(a) + _area(b) - intersection
    without_area = (a == b).all(-1).astype(np.float64)
    iou: np.ndarray = np.divide(intersection, union, out=without_area, where=union > 0)
    return iou


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)
    return area


def _differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # In float64, in which the difference of two float32 cannot overflow.
    difference: np.ndarray = np.abs(first.astype(np.float64) - second.astype(np.float64))
    return difference


def _count(detections: Detections) -> int:
    scores = detections.get("scores")
    return 0 if scores is None or scores.ndim == 0 else len(scores)


def _field_faults(expected: Detections, actual: Detections) -> list[str]:
    faults = [
        *(f"eager model, {fault}" for fault in field_faults(expected)),
        *(f"runtime, {fault}" for fault in field_faults(actual)),
    ]
    if set(expected) != set(actual):
        faults.append(f"fields: runtime {sorted(actual)}, eager model {sorted(expected)}")
    if not faults and "pred_masks" in expected:
        sizes = [side["pred_masks"].shape[1:] for side in (actual, expected)]
        if sizes[0] != sizes[1]:
            faults.append(f"pred_masks: runtime {sizes[0]} px, eager model {sizes[1]} px")
    return faults


def _lowest_kept(detections: Detections, max_detections: int) -> float | None:
    """The score that a detection had to reach to be in a full list; ``None`` where the list is not full."""
    scores = detections["scores"]
    return float(scores[-1]) if len(scores) >= max_detections > 0 else None


def _one_sided(
    side: Detections,
    paired: np.ndarray,
    lowest_kept: float | None,
    *,
    tolerance: Tolerance,
    score_threshold: float,
    limit_px: float,
) -> tuple[OneSided, ...]:
    """Judge the detections of ``side`` that have no partner; ``lowest_kept`` belongs to the other side."""
    found = []
    for index in sorted(set(range(len(side["scores"]))) - set(paired.tolist())):
        box, score = side["pred_boxes"][index], float(side["scores"][index])
        # What may have decided it, how far it is from that, and how far it may be.
        deciders = [("the score threshold", abs(score - score_threshold), tolerance.score)]
        if lowest_kept is not None:
            deciders.append(("the lowest score kept", abs(score - lowest_kept), tolerance.score))
        deciders.append(("an empty box", float((box[2:] - box[:2]).min()), limit_px))
        name, distance, limit = min(deciders, key=lambda decider: decider[1] - decider[2])
        found.append(
            OneSided(
                index=index,
                pred_class=int(side["pred_classes"][index]),
                score=score,
                box=tuple(box.tolist()),
                excused=distance <= limit,
                why=f"{distance:.3g} from {name}",
            )
        )
    return tuple(found)


def _describe(one: OneSided) -> str:
    box = ", ".join(f"{value:.1f}" for value in one.box)
    return f"class {one.pred_class}, score {one.score:.4f}, box [{box}], {one.why}"


def _mask_errors(
    expected: Detections, actual: Detections, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that differ, and area of the expected mask, of each pair; zeros where there are no masks."""
    errors, areas = np.zeros((2, len(rows)), np.int64)
    if "pred_masks" in expected:
        for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
            mask = expected["pred_masks"][row]
            errors[place] = np.count_nonzero(mask != actual["pred_masks"][column])
            areas[place] = np.count_nonzero(mask)
    return errors, areas


def _beyond(name: str, unit: str, errors: np.ndarray, limits: np.ndarray) -> list[str]:
    beyond = np.flatnonzero(errors > limits)
    if not len(beyond):
        return []
    worst = beyond[np.argmax(errors[beyond])]
    return [
        f"{name}: {len(beyond)} of {len(errors)} pairs beyond the tolerance, "
        f"worst {errors[worst]:.4g} {unit} (limit {limits[worst]:.4g})".replace("  ", " ")
    ]


def _swapped(scores: np.ndarray, rows: np.ndarray, columns: np.ndarray, tie: float) -> list[str]:
    """Pairs whose order differs on the two sides although their scores (the eager model's) are no tie."""
    kept = scores[rows].astype(np.float64)
    later = np.arange(len(rows))[:, None] < np.arange(len(rows))[None]
    swapped = later & (columns[:, None] > columns[None]) & (kept[:, None] - kept[None] > tie)
    count = int(np.count_nonzero(swapped))
    return [f"order: {count} pairs of detections swapped places without a tie"] if count else []


def _too_many(actual: Detections, max_detections: int) -> list[str]:
    count = len(actual["scores"])
    return [f"{count} detections, at most {max_detections} promised"] if count > max_detections >= 0 else []
