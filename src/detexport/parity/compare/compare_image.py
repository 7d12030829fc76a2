"""Compare all outputs of one image."""

from dataclasses import asdict, dataclass, field
from typing import Any

from detexport.contract import Contract
from detexport.outputs import Outputs, count_rows, field_faults
from detexport.parity.compare.dense import PanopticComparison, compare_panoptic, compare_sem_seg
from detexport.parity.compare.field_comparison import FieldComparison
from detexport.parity.compare.masks_keypoints import (
    KeypointComparison,
    MaskComparison,
    compare_keypoints,
    compare_masks,
    compare_poses,
)
from detexport.parity.compare.match_detections import NO_ROWS, OneSided, box_area, count_agreeing, match
from detexport.parity.compare.noise import Noise, widen_by
from detexport.parity.compare.tolerance import Tolerance


@dataclass(frozen=True)
class SampleParity:
    """The measurement of one image; ``errors`` is empty if the outputs could not be compared.

    Args:
        expected: number of the eager model's detections or proposals.
        actual: number of the runtime's.
        paired: number of pairs.
        agreeing: number of pairs that agree whatever the noise, see ``count_agreeing``.
        missing: detections of the eager model only.
        extra: detections of the runtime only.
        errors: the largest error by name, see ``detexport.parity.measures``.
        box_limit_px: limit of a box's error.
        keypoints: number of keypoints compared.
        keypoint_flips: number of those in another cell of their heatmap.
        masks_needed: see ``MaskComparison``.
        broken: violations of the contract, or why the outputs could not be compared.
        numerics: numerical errors beyond the tolerance.
        matching: missing and extra detections that are not excused.
        compared: whether the outputs could be compared.
        segments: missing and extra panoptic segments that are not excused: whether it is a thing, its
            category.
        noise_dominated: names of limits that the model itself exceeds by far on this input
            (``Noise.noise_dominated``).
        widened: limits widened to the model's own noise on this input, by the tolerance's names.
    """

    expected: int
    actual: int
    paired: int = 0
    agreeing: int = 0
    missing: tuple[OneSided, ...] = ()
    extra: tuple[OneSided, ...] = ()
    errors: dict[str, float] = field(default_factory=dict)
    box_limit_px: float | None = None
    keypoints: int = 0
    keypoint_flips: int = 0
    masks_needed: tuple[float, float] = (0.0, 0.0)
    broken: tuple[str, ...] = ()
    numerics: tuple[str, ...] = ()
    matching: tuple[str, ...] = ()
    compared: bool = False
    segments: tuple[tuple[bool, int], ...] = ()
    noise_dominated: tuple[str, ...] = ()
    widened: dict[str, float] = field(default_factory=dict)

    @property
    def undetermined(self) -> tuple[int, int]:
        """Return the numbers of missing and of extra detections that are undetermined."""
        missing, extra = (sum(one.undetermined for one in side) for side in (self.missing, self.extra))
        return missing, extra

    @property
    def determined(self) -> int:
        """Return the number of pairs (1 without detections) that show that the outputs are equal.

        Within noise-dominated limits these are the pairs that agree all the same. If they are the smaller
        part, they may agree by chance, and none counts.
        """
        if "box_error_px" not in self.errors:
            return int(self.compared and not self.noise_dominated)
        if not {"box_px", "score", "objectness"} & set(self.noise_dominated):
            return self.paired
        return self.agreeing if 2 * self.agreeing > self.paired else 0

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why the image did not pass; empty if it did."""
        return (*self.broken, *self.numerics, *self.matching)

    @property
    def passed(self) -> bool:
        """Return whether everything is within the tolerance."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain JSON values."""
        return {"passed": self.passed, "reasons": list(self.reasons), **asdict(self)}


def compare(
    expected: Outputs,
    actual: Outputs,
    *,
    tolerance: Tolerance,
    contract: Contract,
    scale: float,
    noise: Noise | None = None,
    own: bool = False,
) -> SampleParity:
    """Measure the errors of a runtime's outputs against the eager model's on one image.

    Args:
        expected: the eager model's, see ``Outputs``.
        actual: the runtime's, in the same frame.
        tolerance: the limits.
        contract: thresholds and maximum number of detections.
        scale: output size / input size, the larger of both sides.
        noise: differences between the model's own runs on this image. Undetermined detections are
            excused, and limits are widened.
        own: whether ``actual`` is another run of the eager model itself (``detexport.parity.noise_floor``).
    """
    counts: dict[str, Any] = {"expected": count_rows(expected), "actual": count_rows(actual)}
    faults = _faults(expected, actual)
    if faults:
        return SampleParity(**counts, broken=tuple(faults))

    table, tolerance = tolerance, widen_by(tolerance, noise) if noise else tolerance
    comparisons: list[FieldComparison] = []
    matching, masks, keypoints, panoptic = (
        NO_ROWS,
        MaskComparison(),
        KeypointComparison(),
        PanopticComparison(),
    )
    if "scores" in expected or "objectness_logits" in expected:
        matching, boxes = match(
            expected, actual, tolerance=tolerance, contract=contract, scale=scale, noise=noise, own=own
        )
        comparisons.append(boxes)
    if "pred_masks" in expected:
        masks = compare_masks(expected["pred_masks"], actual["pred_masks"], matching, tolerance)
        comparisons.append(masks)
    if "pred_keypoints" in expected:
        both_sides = expected["pred_keypoints"], actual["pred_keypoints"]
        keypoints = compare_keypoints(*both_sides, matching, tolerance, scale)
        areas = box_area(expected["pred_boxes"])
        comparisons += [keypoints, compare_poses(*both_sides, matching, areas, contract.oks_sigmas)]
    if "sem_seg" in expected:
        comparisons.append(compare_sem_seg(expected["sem_seg"], actual["sem_seg"], tolerance))
    if "panoptic_seg" in expected and contract.panoptic is not None:
        panoptic = compare_panoptic(expected, actual, matching, tolerance, contract.panoptic, noise)
        comparisons.append(panoptic)
    return SampleParity(
        **counts,
        paired=len(matching.rows),
        agreeing=count_agreeing(matching, table, scale),
        missing=matching.missing,
        extra=matching.extra,
        errors={name: error for one in comparisons for name, error in one.errors.items()},
        box_limit_px=tolerance.limit("box_px", scale),
        keypoints=keypoints.compared,
        keypoint_flips=keypoints.flipped,
        masks_needed=masks.needed,
        broken=tuple(reason for one in comparisons for reason in one.broken),
        numerics=tuple(reason for one in comparisons for reason in one.numerics),
        matching=tuple(reason for one in comparisons for reason in one.matching),
        compared=True,
        segments=panoptic.segments,
        widened={name: limit for name, limit in asdict(tolerance).items() if limit != getattr(table, name)},
    )


def _faults(expected: Outputs, actual: Outputs) -> list[str]:
    """Return why two outputs cannot be compared; empty if they can."""
    faults = [
        *(f"eager model, {fault}" for fault in field_faults(expected)),
        *(f"runtime, {fault}" for fault in field_faults(actual)),
    ]
    if set(expected) != set(actual):
        faults.append(f"fields: runtime {sorted(actual)}, eager model {sorted(expected)}")
    if faults:
        return faults
    # The number of rows may differ.
    row_axes = {"pred_boxes": 1, "pred_masks": 1, "pred_keypoints": 1, "sem_seg": 0, "panoptic_seg": 0}
    sizes = [
        (name, *(side[name].shape[first:] for side in (actual, expected)))
        for name, first in row_axes.items()
        if name in expected
    ]
    return [f"{name}: runtime {a}, eager model {b}" for name, a, b in sizes if a != b]
