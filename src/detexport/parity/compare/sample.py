"""The measurement of one image."""

from dataclasses import asdict, dataclass, field
from typing import Any

from detexport.contract import Contract
from detexport.outputs import Outputs, count_rows, field_faults
from detexport.parity.compare.dense import PanopticPart, compare_panoptic, compare_sem_seg
from detexport.parity.compare.noise import Noise, widen_by
from detexport.parity.compare.pairs import (
    KeypointPart,
    MaskPart,
    compare_keypoints,
    compare_masks,
    compare_poses,
)
from detexport.parity.compare.part import Part
from detexport.parity.compare.rows import NO_ROWS, OneSided, box_area, match
from detexport.parity.compare.tolerance import Tolerance


@dataclass(frozen=True)
class SampleParity:
    """The measurement of one image; there are no errors where the fields could not be compared.

    Args:
        expected: number of the eager model's detections or proposals.
        actual: number of the runtime's.
        paired: number of pairs.
        missing: only the eager model has them.
        extra: only the runtime has them.
        errors: the largest error by name, see ``detexport.parity.measures``.
        box_limit_px: what a box's error is held against.
        keypoints: number of keypoints compared.
        keypoint_flips: number of those whose place is another cell of their heatmap.
        masks_needed: see ``MaskPart``.
        broken: what is promised and not kept, or why nothing could be compared.
        numerics: where numbers lie beyond the tolerance.
        matching: what was decided otherwise, and not at the edge.
        compared: whether the fields could be compared at all.
        segments: panoptic segments that one side alone has, not at an edge: whether it is a thing, its
            category.
        noise_dominated: names of limits that the model itself exceeds by far on this input
            (``Noise.noise_dominated``).
    """

    expected: int
    actual: int
    paired: int = 0
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

    @property
    def undetermined(self) -> tuple[int, int]:
        """Number of detections, missing and extra, about which the model's own runs do not agree."""
        missing, extra = (sum(one.undetermined for one in side) for side in (self.missing, self.extra))
        return missing, extra

    @property
    def determined(self) -> int:
        """How many detections, or maps of every pixel, are equal within limits that prove something."""
        if "box_error_px" in self.errors:
            return 0 if {"box_px", "score", "objectness"} & set(self.noise_dominated) else self.paired
        return int(self.compared and not self.noise_dominated)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the image did not pass; empty where it did."""
        return (*self.broken, *self.numerics, *self.matching)

    @property
    def passed(self) -> bool:
        """Whether everything is within the tolerance."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The measurement as plain JSON values."""
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
    """Measure how far a runtime's outputs lie from the eager model's on one image.

    Args:
        expected: the eager model's, see ``Outputs``.
        actual: the runtime's, in the same frame.
        tolerance: the limits.
        contract: thresholds and longest list, which decide what is in the outputs at all.
        scale: output size / input size, the larger of both sides.
        noise: how the model's own runs differ on this image: what they do not determine is excused, and no
            limit lies below their errors.
        own: whether ``actual`` is another run of the eager model itself (``detexport.parity.noise_floor``).
    """
    counts: dict[str, Any] = {"expected": count_rows(expected), "actual": count_rows(actual)}
    faults = _faults(expected, actual)
    if faults:
        return SampleParity(**counts, broken=tuple(faults))

    tolerance = widen_by(tolerance, noise) if noise else tolerance
    parts: list[Part] = []
    matching, masks, keypoints, panoptic = NO_ROWS, MaskPart(), KeypointPart(), PanopticPart()
    if "scores" in expected or "objectness_logits" in expected:
        matching, part = match(
            expected, actual, tolerance=tolerance, contract=contract, scale=scale, noise=noise, own=own
        )
        parts.append(part)
    if "pred_masks" in expected:
        masks = compare_masks(expected["pred_masks"], actual["pred_masks"], matching, tolerance)
        parts.append(masks)
    if "pred_keypoints" in expected:
        places = expected["pred_keypoints"], actual["pred_keypoints"]
        keypoints = compare_keypoints(*places, matching, tolerance, scale)
        areas = box_area(expected["pred_boxes"])
        parts += [keypoints, compare_poses(*places, matching, areas, contract.oks_sigmas)]
    if "sem_seg" in expected:
        parts.append(compare_sem_seg(expected["sem_seg"], actual["sem_seg"], tolerance))
    if "panoptic_seg" in expected and contract.panoptic is not None:
        panoptic = compare_panoptic(expected, actual, matching, tolerance, contract.panoptic, noise)
        parts.append(panoptic)
    return SampleParity(
        **counts,
        paired=len(matching.rows),
        missing=matching.missing,
        extra=matching.extra,
        errors={name: error for part in parts for name, error in part.errors.items()},
        box_limit_px=tolerance.box_limit_px(scale),
        keypoints=keypoints.compared,
        keypoint_flips=keypoints.flipped,
        masks_needed=masks.needed,
        broken=tuple(reason for part in parts for reason in part.broken),
        numerics=tuple(reason for part in parts for reason in part.numerics),
        matching=tuple(reason for part in parts for reason in part.matching),
        compared=True,
        segments=panoptic.segments,
    )


def _faults(expected: Outputs, actual: Outputs) -> list[str]:
    """What keeps two outputs from being compared."""
    faults = [
        *(f"eager model, {fault}" for fault in field_faults(expected)),
        *(f"runtime, {fault}" for fault in field_faults(actual)),
    ]
    if set(expected) != set(actual):
        faults.append(f"fields: runtime {sorted(actual)}, eager model {sorted(expected)}")
    if faults:
        return faults
    sizes = [
        (name, *(side[name].shape[first:] for side in (actual, expected)))
        # Beyond the rows, whose number may differ.
        for name, first in (("pred_masks", 1), ("pred_keypoints", 1), ("sem_seg", 0), ("panoptic_seg", 0))
        if name in expected
    ]
    return [f"{name}: runtime {a}, eager model {b}" for name, a, b in sizes if a != b]
