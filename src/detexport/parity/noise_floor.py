"""The noise floor: the numerical errors between runs of the eager model itself.

Threads, memory formats and devices change the order of sums, and with it the last bits. The effect on boxes,
scores and masks depends on the model, so it is measured; with a smaller limit the model itself would fail.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from detexport.contract import Contract
from detexport.errors import DataError
from detexport.outputs import Outputs
from detexport.parity.compare import Noise, SampleParity, Tolerance, compare
from detexport.parity.compare.noise import MOST_WIDENED, strict
from detexport.parity.measures import MEASURES, measured
from detexport.reference.store import Reference, Sample
from detexport.system.files import read_json
from detexport.system.json_values import decode
from detexport.system.progress import progress_bar

Run = Callable[[np.ndarray, tuple[int, int]], Outputs]
"""The eager model on one image (3, H, W) uint8, its outputs in px of the given height and width."""


@dataclass(frozen=True)
class Variant:
    """Another run of the eager model, compared with the reference.

    Args:
        counts: whether it is part of the floor; TF32 is another precision and is not.
        errors: the largest error by measure, see ``detexport.parity.measures``; None if nothing was compared.
        limits: the smallest limits, by the tolerance's names, that the run passes.
        unmatched: number of missing and extra detections or proposals.
        unexcused: number of those that the tolerance does not excuse.
        differences: in another precision, the delta of each task metric to the reference's.
        budget: largest delta; None if they were not measured.
    """

    counts: bool
    errors: dict[str, float | None]
    limits: dict[str, float]
    unmatched: int
    unexcused: int
    differences: dict[str, float] = field(default_factory=dict)
    budget: float | None = None

    @property
    def affordable(self) -> bool | None:
        """Return whether the deltas of another precision are within the budget; None if not measured."""
        if self.budget is None:
            return None
        return all(abs(difference) <= self.budget for difference in self.differences.values())


@dataclass(frozen=True)
class Limit:
    """A limit of the tolerance, and the noise floor of the same quantity.

    Args:
        name: name in ``Tolerance``.
        floor: smallest limit that the eager model passes against itself.
        table: the tolerance.
        effective: the limit that an artifact is compared with.
    """

    name: str
    floor: float
    table: float
    effective: float

    @property
    def widened(self) -> bool:
        """Return whether the model itself needs more than the tolerance."""
        return self.effective > self.table


@dataclass(frozen=True)
class NoiseFloor:
    """The measured noise floor of a model.

    Args:
        samples: ids of the samples of the reference that it was measured on.
        environment: versions, threads and devices: what the numbers may depend on.
        variants: each other run of the model, by name.
        noise: the noise of each sample of the reference, by id.
    """

    samples: tuple[str, ...]
    environment: dict[str, Any]
    variants: dict[str, Variant]
    noise: dict[str, Noise] = field(default_factory=dict)

    def noise_of(self, group: Sequence[Sample]) -> dict[str, Noise]:
        """Return the noise on some samples, by id."""
        return {
            sample.meta.id: self.noise[sample.meta.id] for sample in group if sample.meta.id in self.noise
        }

    @property
    def limits(self) -> dict[str, float]:
        """Return the smallest limits, by the tolerance's names, that all variants of the floor pass."""
        largest: dict[str, float] = {}
        for variant in self.variants.values():
            for name, limit in variant.limits.items() if variant.counts else ():
                largest[name] = max(limit, largest.get(name, 0.0))
        return largest

    @property
    def unmatched(self) -> int:
        """Return the number of unmatched detections between the model's own runs that are not excused."""
        return sum(variant.unexcused for variant in self.variants.values() if variant.counts)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "NoiseFloor":
        """Undo ``to_json``."""
        variants = decode(value["variants"], dict[str, Variant], "variants")
        samples = decode(value["samples"], tuple[str, ...], "samples")
        noise = {one["id"]: Noise.from_json(one) for one in value["noise"]}
        return cls(samples, decode(value["environment"], dict[str, Any], "environment"), variants, noise)

    def to_json(self) -> dict[str, Any]:
        """Return the floor as plain JSON values."""
        return {
            "samples": list(self.samples),
            "environment": self.environment,
            "limits": self.limits,
            "variants": {
                name: {one.name: getattr(variant, one.name) for one in fields(variant)}
                for name, variant in self.variants.items()
            },
            # A list, which `dvc metrics show` leaves out.
            "noise": [{"id": id, **asdict(noise)} for id, noise in self.noise.items()],
        }


def read_noise_floor(path: Path) -> NoiseFloor:
    """Read a floor that was written as JSON.

    Raises:
        DataError: the file is missing, or is not a noise floor.
    """
    try:
        return NoiseFloor.from_json(read_json(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a noise floor",
            got=f"{type(error).__name__}: {error}",
            expected="a JSON file as the stage `noise_floor` writes it",
            remedy="run the stage `noise_floor` again",
        ) from error


def choose_samples(reference: Reference, number: int) -> list[Sample]:
    """Return ``number`` samples that are not in a batch, evenly spaced, or all if there are fewer."""
    alone = [sample for sample in reference.samples if not sample.meta.batch]
    number = min(number, len(alone))
    return [alone[index * len(alone) // number] for index in range(number)]


def measure_variant(
    run: Run,
    samples: Sequence[Sample],
    tolerance: Tolerance,
    contract: Contract,
    *,
    name: str,
    counts: bool = True,
) -> Variant:
    """Run a variant of the eager model on samples of the reference, and compare.

    Args:
        run: the variant.
        samples: samples of the reference that are not in a batch.
        tolerance: decides which unmatched detections are excused, and which keypoints are in another cell.
        contract: the model's.
        name: the variant's, for messages.
        counts: see ``Variant``.

    Raises:
        DataError: the outputs cannot be compared.
    """
    errors: dict[str, float | None] = dict.fromkeys(measured(_fields_of(contract)))
    limits: dict[str, float] = {}
    unmatched = unexcused = keypoints = keypoint_flips = 0
    for sample in progress_bar(samples, desc=f"noise floor: {name}", unit="image"):
        size, image, scale = sample.meta.output_size, sample.image(), sample.meta.output_scale
        measured_sample = compare(
            sample.expected(),
            run(image, size),
            tolerance=tolerance,
            contract=contract,
            scale=scale,
            own=True,
        )
        _check_compared(measured_sample, sample, name)
        _raise_to(errors, measured_sample.errors)
        _raise_to(limits, needed(measured_sample, scale))
        one_sided = (*measured_sample.missing, *measured_sample.extra)
        unmatched += len(one_sided)
        unexcused += sum(not one.excused for one in one_sided)
        keypoints += measured_sample.keypoints
        keypoint_flips += measured_sample.keypoint_flips
    if keypoints:
        errors["keypoint_flip_ratio"] = limits["keypoint_flip_ratio"] = keypoint_flips / keypoints
    return Variant(counts, errors, limits, unmatched, unexcused)


def compare_runs(
    group: Sequence[Sample],
    runs: Mapping[str, Sequence[Outputs]],
    tolerance: Tolerance,
    contract: Contract,
) -> dict[str, list[SampleParity]]:
    """Compare the model's own runs on samples of one call with the reference; return the comparisons by id.

    Args:
        group: the samples.
        runs: outputs of each other run, in the order of the samples, by its name.
        tolerance: the tolerance without the floor.
        contract: the model's.

    Raises:
        DataError: the outputs cannot be compared.
    """
    comparisons: dict[str, list[SampleParity]] = {sample.meta.id: [] for sample in group}
    for index, sample in enumerate(group):
        expected = sample.expected()
        for name, outputs in runs.items():
            comparison = compare(
                expected,
                outputs[index],
                tolerance=strict(tolerance),
                contract=contract,
                scale=sample.meta.output_scale,
                own=True,
            )
            _check_compared(comparison, sample, name)
            comparisons[sample.meta.id].append(comparison)
    return comparisons


def noise_between(runs: Iterable[SampleParity], sample: Sample) -> Noise:
    """Return the noise of a sample, from the comparisons of the model's other runs with the reference."""
    limits: dict[str, float] = {}
    undetermined: set[int] = set()
    scores: set[float] = set()
    segments: set[tuple[bool, int]] = set()
    counts = {sample.detections}
    for run in runs:
        counts.add(run.actual)
        undetermined |= {one.index for one in run.missing}
        scores |= {one.score for one in (*run.missing, *run.extra)}
        segments |= set(run.segments)
        needs = needed(run, sample.meta.output_scale)
        if run.keypoints:
            needs["keypoint_flip_ratio"] = run.keypoint_flips / run.keypoints
        for name, limit in needs.items():
            limits[name] = max(limit, limits.get(name, 0.0))
    return Noise(
        limits={name: limit for name, limit in limits.items() if limit > 0},
        undetermined=tuple(sorted(undetermined)),
        scores=tuple(sorted(scores)),
        counts=(min(counts), max(counts)),
        segments=tuple(sorted(segments)),
    )


def _check_compared(comparison: SampleParity, sample: Sample, name: str) -> None:
    if not comparison.compared:
        raise DataError(
            f"the eager model returns other outputs when it is run with {name}",
            got="; ".join(comparison.reasons),
            expected=f"outputs on {sample.meta.id} that can be compared with the reference",
            remedy="check the eager model: its own outputs are invalid or not reproducible",
        )


def needed(sample: SampleParity, scale: float) -> dict[str, float]:
    """Return the smallest limits, by the tolerance's names, that an image's errors are within.

    A mask that passes by the tolerance in pixels or in area needs no other limit.

    Args:
        sample: the measurement of the image.
        scale: output size / input size; limits in px of the input are multiplied by it.
    """
    errors = sample.errors
    limited = [name for name in errors if MEASURES[name].tolerance]
    limits = {MEASURES[name].tolerance: float(errors[name]) for name in limited}
    if "box_px" in limits:
        # The limit is the larger of box_px x scale and box_floor_px.
        limits["box_px"] = limits["box_floor_px"] = limits["box_px"] / max(scale, 1.0)
    if "mask_px" in limits:
        limits["mask_px"], limits["mask_area_ratio"] = sample.masks_needed
    if "keypoint_px" in limits:
        limits["keypoint_px"] /= scale
    return limits


def widen(tolerance: Tolerance, floor: NoiseFloor) -> Tolerance:
    """Return the tolerance widened to the floor, each limit at most to ``MOST_WIDENED`` times its value.

    If the model's own error on an input is larger, ``Noise`` of that input decides.
    """
    needs = {
        name: min(need, MOST_WIDENED * getattr(tolerance, name) or need)
        for name, need in floor.limits.items()
        if hasattr(tolerance, name)
    }
    return tolerance.widened(needs)


def limits_of(tolerance: Tolerance, floor: NoiseFloor) -> list[Limit]:
    """Return each limit that the floor measures: floor, table and effective value."""
    effective = widen(tolerance, floor)
    return [
        Limit(one.name, floor.limits[one.name], getattr(tolerance, one.name), getattr(effective, one.name))
        for one in fields(tolerance)
        if one.name in floor.limits
    ]


def _fields_of(contract: Contract) -> tuple[str, ...]:
    """Return the names of the model's fields after post-processing."""
    return (*contract.output_names, *contract.results)


def _raise_to(largest: dict[str, Any], values: dict[str, float]) -> None:
    """Update ``largest`` with larger values, by name."""
    for name, value in values.items():
        known = largest.get(name)
        largest[name] = float(value) if known is None else max(known, float(value))
