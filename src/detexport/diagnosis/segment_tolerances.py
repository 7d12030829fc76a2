"""The numerical errors of a segment against the eager model's, and their limits.

A segment runs on the eager model's own tensors, so its error is that of another order of sums in a few
layers. In float32 that is up to 1e-6 of a tensor's largest value (measured: 7e-7 in a trained Mask R-CNN in
ONNX Runtime); rounding to half precision is 5e-4 of a value. The limit is between the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from detexport.contract import Contract
from detexport.diagnosis.segment_chain import PASTED
from detexport.errors import ConfigError
from detexport.modeling.graph_segment import Kind
from detexport.parity import measures
from detexport.parity.compare import Tolerance, compare
from detexport.parity.compare.field_comparison import absolute_errors
from detexport.parity.compare.masks_keypoints import compare_keypoints
from detexport.parity.compare.match_detections import Matching, match
from detexport.parity.settings import default_settings
from detexport.processing.postprocess import postprocess

Arrays = Mapping[str, np.ndarray]


def _table() -> Tolerance:
    return default_settings().tolerance


@dataclass(frozen=True)
class Limits:
    """Limits of one precision.

    Args:
        relative: of a value's error, as a fraction of the largest value of its tensor.
        bulk: as ``relative``, in segments where rounding decides and ``differing`` values may exceed it.
        differing: fraction of a tensor's values, or of the proposals, that may differ where rounding decides:
            which level a box is pooled from, which cells a point head reads, which of two boxes NMS drops.
        tolerance: of boxes, scores and keypoints that one segment decodes.
        outputs: of post-processed outputs, in which the roundings of many layers add up.
    """

    relative: float = 5e-5
    bulk: float = 5e-5
    differing: float = 0.01
    tolerance: Tolerance = field(default_factory=_table)
    outputs: Tolerance = field(default_factory=_table)


@cache
def _limits() -> dict[str, Limits]:
    """Return the limits by precision."""
    return {
        "": Limits(),
        # At least twice what was measured with AVX512_BF16: see docs/parity.md. OpenVINO rounds the operands
        # of convolutions and matrix products, so decoding, comparing and sorting have the limits of float32;
        # the position of a keypoint is computed by a matrix product.
        "bf16": Limits(
            relative=0.04,
            bulk=0.01,
            tolerance=replace(_table(), keypoint_px=6.0, keypoint_flip_ratio=0.06, keypoint_score=0.9),
            outputs=replace(
                _table(),
                box_px=4.0,
                score=0.07,
                objectness=0.2,
                mask_area_ratio=0.28,
                keypoint_px=8.0,
                keypoint_flip_ratio=0.2,
                keypoint_score=0.9,
                sem_seg=0.5,
                panoptic_ratio=0.01,
            ),
        ),
    }


def limits_of(precision: str) -> Limits:
    """Return the limits of a target's precision.

    Raises:
        ConfigError: segments of this precision have no limits.
    """
    limits = _limits()
    if precision not in limits:
        raise ConfigError(
            "segments of this precision have no limits",
            got=precision,
            expected=" or ".join(name or "float32" for name in limits),
            remedy="diagnose the artifact that it was made from",
        )
    return limits[precision]


@dataclass(frozen=True)
class Measured:
    """The measured errors of a segment.

    Args:
        errors: by name: ``absolute`` and ``relative``, the largest, and ``differing``, the number of values
            beyond the limit; or the errors of a parity report, and the number of ``unpaired`` rows.
        limits: the limits of some of them.
        worst: name of the tensor with the largest error.
        why: the errors beyond their limits, in words; empty if there are none.
    """

    errors: dict[str, float]
    limits: dict[str, float]
    worst: str
    why: str = ""


def measure(
    kind: Kind,
    expected: Arrays,
    actual: Arrays,
    image_size: tuple[int, int],
    contract: Contract,
    limits: Limits,
) -> Measured:
    """Compare a segment's outputs with the eager model's.

    Args:
        kind: how they are compared.
        expected: the eager model's tensors by name.
        actual: the segment's.
        image_size: height and width of the image in px.
        contract: of the artifact's graph.
        limits: see ``Limits``.
    """
    if kind is Kind.VALUES:
        return _values(expected, actual, limits.relative, 0.0)
    if kind is Kind.CHOICES:
        return _values(expected, actual, limits.bulk, limits.differing)
    broken = _broken(expected, actual)
    if broken:
        return Measured({}, {}, "", broken)
    if kind in (Kind.PROPOSALS, Kind.DETECTIONS):
        return _row_sets(expected, actual, contract, limits)
    if kind is Kind.KEYPOINTS:
        return _keypoints(expected, actual, limits)
    sides = [as_outputs(side, image_size, contract) for side in (expected, actual)]
    return measure_outputs(sides[0], sides[1], contract, limits)


def _values(expected: Arrays, actual: Arrays, limit: float, share: float) -> Measured:
    """Compare each tensor value by value; return the errors of the worst tensor."""
    measured = [_of_tensor(name, want, actual[name], limit, share) for name, want in expected.items()]
    worst = max(measured, key=lambda one: (bool(one.why), one.errors.get("relative", np.inf)))
    return replace(worst, why="; ".join(one.why for one in measured if one.why))


def _of_tensor(name: str, want: np.ndarray, got: np.ndarray, limit: float, share: float) -> Measured:
    bounds = {"relative": limit, "differing": float(int(share * want.size))}
    if want.shape != got.shape or want.dtype != got.dtype:
        why = f"{name}: {got.dtype} {got.shape}, eager model {want.dtype} {want.shape}"
        return Measured({}, bounds, name, why)
    error = absolute_errors(want, got)
    # NaN on both sides is no error; on one side it is infinite.
    error = np.where(np.isnan(want) & np.isnan(got), 0, np.where(np.isnan(error), np.inf, error))
    error = np.where(want == got, 0, error)
    scale = float(np.abs(want[np.isfinite(want)]).max(initial=0))
    largest = float(error.max(initial=0))
    relative = largest / scale if scale else (np.inf if largest else 0.0)
    differing = int(np.count_nonzero(error > limit * scale))
    errors = {"absolute": largest, "relative": float(relative), "differing": float(differing)}
    if differing <= bounds["differing"]:
        return Measured(errors, bounds, name)
    why = f"{name}: {differing} of {want.size} values differ, the worst by {largest:.3g}"
    return Measured(errors, bounds, name, f"{why}, {relative:.3g} of the largest value (limit {limit:g})")


def _broken(expected: Arrays, actual: Arrays) -> str:
    """Return why rows cannot be compared; empty if they can."""
    for name, want in expected.items():
        got = actual[name]
        if want.shape[1:] != got.shape[1:] and not name.startswith(PASTED):
            return f"{name}: rows of {got.shape[1:]}, eager model {want.shape[1:]}"
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            return f"{name}: {np.count_nonzero(~np.isfinite(got))} values are NaN or infinite"
    return ""


def _row_sets(expected: Arrays, actual: Arrays, contract: Contract, limits: Limits) -> Measured:
    sides = [dict(expected), dict(actual)]
    if "scores" not in expected:
        longest = max(len(side["proposal_boxes"]) for side in sides)
        contract = replace(contract, max_detections=longest)
    matching, boxes = match(*sides, tolerance=limits.tolerance, contract=contract, scale=1.0)
    unpaired = sum(not one.excused for one in (*matching.missing, *matching.extra))
    count = len(next(iter(expected.values())))
    # A few of many proposals may be unpaired; a detection that is not excused is a lost object.
    allowed = 0 if "scores" in expected else int(limits.differing * count)
    reasons = [*boxes.broken, *boxes.numerics]
    if unpaired > allowed:
        reasons.append(f"{unpaired} unpaired rows, of {count} (allowed {allowed}); {boxes.matching[0]}")
    bounds = {**measures.limits_of(boxes.errors, limits.tolerance, 1.0), "unpaired": float(allowed)}
    return Measured({**boxes.errors, "unpaired": float(unpaired)}, bounds, "", "; ".join(reasons))


def _keypoints(expected: Arrays, actual: Arrays, limits: Limits) -> Measured:
    (want,), (got,) = expected.values(), actual.values()
    if want.shape != got.shape:
        return Measured({}, {}, "", f"{got.shape}, eager model {want.shape}")
    same = Matching(np.arange(len(want)), np.arange(len(want)))
    keypoints = compare_keypoints(want, got, same, limits.tolerance, 1.0)
    bounds = measures.limits_of(keypoints.errors, limits.tolerance, 1.0)
    return Measured(dict(keypoints.errors), bounds, "", "; ".join((*keypoints.numerics, *keypoints.matching)))


def as_outputs(arrays: Arrays, image_size: tuple[int, int], contract: Contract) -> dict[str, np.ndarray]:
    """Return raw or pasted outputs of a graph, or some of them, post-processed for the comparison."""
    outputs = {name.removeprefix(PASTED): value for name, value in arrays.items()}
    given = tuple(spec for spec in contract.outputs if spec.name in outputs)
    return postprocess(outputs, image_size, image_size, replace(contract, outputs=given, panoptic=None))


def measure_outputs(expected: Arrays, actual: Arrays, contract: Contract, limits: Limits) -> Measured:
    """Compare post-processed outputs with the eager model's, as a parity check does, in the image's size."""
    tolerance = limits.outputs
    sample = compare(dict(expected), dict(actual), tolerance=tolerance, contract=contract, scale=1.0)
    unpaired = float(len(sample.missing) + len(sample.extra))
    bounds = measures.limits_of(sample.errors, tolerance, 1.0)
    return Measured({**sample.errors, "unpaired": unpaired}, bounds, "", "; ".join(sample.reasons))
