"""The noise floor: how far the eager model lies from itself when it is run in another way.

Threads, memory formats and devices change the order of sums, and with it the last bits. What that does to
boxes, scores and masks depends on the model, so it is measured; a limit below it would fail the model itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.contract import Contract
from detexport.errors import DataError
from detexport.outputs import Outputs
from detexport.parity.compare import Noise, SampleParity, Tolerance, compare
from detexport.parity.compare.noise import MOST_WIDENED, strict
from detexport.parity.measures import measured
from detexport.reference.store import Reference, Sample
from detexport.system.files import read_json
from detexport.system.json_values import decode

Run = Callable[[np.ndarray, tuple[int, int]], Outputs]
"""The eager model on one image (3, H, W) uint8, its outputs in px of the given height and width."""

# Limits that are held against an error of an image as it is, by the limit's name.
PLAIN_LIMITS = {
    "score": "score_error",
    "objectness": "objectness_error",
    "keypoint_score": "keypoint_score_error",
    "sem_seg": "sem_seg_error",
    "panoptic_ratio": "panoptic_error_ratio",
}


@dataclass(frozen=True)
class Variant:
    """The eager model run in one other way, against the reference.

    Args:
        counts: whether it is part of the floor; what TF32 costs is measured against it instead.
        errors: the largest error by measure, see ``detexport.parity.measures``; null where there was nothing
            to compare.
        limits: the least limits, by the tolerance's names, that it would pass by.
        unmatched: number of detections or proposals that only one side has.
        unexcused: number of those that the tolerance does not excuse.
        differences: of another precision, how far each task metric lies from the reference's.
        budget: what each may be; none where they were not measured.
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
        """Whether what another precision costs is within its budget; none where that was not measured."""
        if self.budget is None:
            return None
        return all(abs(difference) <= self.budget for difference in self.differences.values())


@dataclass(frozen=True)
class Limit:
    """A limit of the tolerance beside the noise floor.

    Args:
        name: the tolerance's.
        floor: what the eager model needs to pass against itself.
        table: what the tolerance says.
        effective: what is held against an artifact.
    """

    name: str
    floor: float
    table: float
    effective: float

    @property
    def widened(self) -> bool:
        """Whether the table says less than the model itself needs."""
        return self.effective > self.table


@dataclass(frozen=True)
class NoiseFloor:
    """The measured noise floor of a model.

    Args:
        samples: ids of the samples of the reference that it was measured on.
        environment: versions, threads and devices: what the numbers may depend on.
        variants: what each other way of running gives, by its name.
        noise: of each sample of the reference, what the model's own runs on it leave undetermined.
    """

    samples: tuple[str, ...]
    environment: dict[str, Any]
    variants: dict[str, Variant]
    noise: dict[str, Noise] = field(default_factory=dict)

    def noise_of(self, group: Sequence[Sample]) -> dict[str, Noise]:
        """The noise on some samples, by their ids."""
        return {
            sample.meta.id: self.noise[sample.meta.id] for sample in group if sample.meta.id in self.noise
        }

    @property
    def limits(self) -> dict[str, float]:
        """The least limits, by the tolerance's names, that all variants that count would pass by."""
        largest: dict[str, float] = {}
        for variant in self.variants.values():
            for name, limit in variant.limits.items() if variant.counts else ():
                largest[name] = max(limit, largest.get(name, 0.0))
        return largest

    @property
    def unmatched(self) -> int:
        """Decisions, beyond those at an edge, that the model takes otherwise when it is run another way."""
        return sum(variant.unexcused for variant in self.variants.values() if variant.counts)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "NoiseFloor":
        """Undo ``to_json``."""
        variants = decode(value["variants"], dict[str, Variant], "variants")
        samples = decode(value["samples"], tuple[str, ...], "samples")
        noise = {one["id"]: Noise.from_json(one) for one in value["noise"]}
        return cls(samples, decode(value["environment"], dict[str, Any], "environment"), variants, noise)

    def to_json(self) -> dict[str, Any]:
        """The floor as plain JSON values."""
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
        DataError: the file is missing, or is not one.
    """
    try:
        return NoiseFloor.from_json(read_json(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a noise floor",
            got=f"{type(error).__name__}: {error}",
            expected="a JSON file as the stage `floor` writes it",
            remedy="run the stage `floor` again",
        ) from error


def choose_samples(reference: Reference, number: int) -> list[Sample]:
    """``number`` samples at even distances of those that were made alone, or all if there are fewer."""
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
    """Run the eager model in another way on samples of the reference, and compare.

    Args:
        run: the model in that way.
        samples: of the reference, each made alone.
        tolerance: what unmatched are excused by, and keypoints are told to lie elsewhere by.
        contract: the model's.
        name: the variant's, for messages.
        counts: see ``Variant``.

    Raises:
        DataError: the outputs cannot be compared at all.
    """
    errors: dict[str, float | None] = dict.fromkeys(measured(_fields_of(contract)))
    limits: dict[str, float] = {}
    unmatched = unexcused = keypoints = keypoint_flips = 0
    for sample in tqdm(samples, desc=f"noise floor: {name}", unit="image"):
        size, image, scale = sample.meta.output_size, sample.image(), sample.meta.output_scale
        found = compare(
            sample.expected(),
            run(image, size),
            tolerance=tolerance,
            contract=contract,
            scale=scale,
            own=True,
        )
        _check_compared(found, sample, name)
        _raise_to(errors, found.errors)
        _raise_to(limits, needed(found, scale))
        unmatched += len(found.missing) + len(found.extra)
        unexcused += sum(not one.excused for one in (*found.missing, *found.extra))
        keypoints += found.keypoints
        keypoint_flips += found.keypoint_flips
    if keypoints:
        errors["keypoint_flip_ratio"] = limits["keypoint_flip_ratio"] = keypoint_flips / keypoints
    return Variant(counts, errors, limits, unmatched, unexcused)


def measure_noise(
    group: Sequence[Sample],
    runs: Mapping[str, Sequence[Outputs]],
    tolerance: Tolerance,
    contract: Contract,
) -> dict[str, Noise]:
    """What the model's own runs leave undetermined on samples that go through it in one call, by their ids.

    Args:
        group: the samples.
        runs: by the name of each other run, its outputs in the order of the samples.
        tolerance: the table's.
        contract: the model's.

    Raises:
        DataError: outputs cannot be compared at all.
    """
    noise = {}
    for place, sample in enumerate(group):
        expected = sample.expected()
        found = [
            (
                name,
                compare(
                    expected,
                    given[place],
                    tolerance=strict(tolerance),
                    contract=contract,
                    scale=sample.meta.output_scale,
                    own=True,
                ),
            )
            for name, given in runs.items()
        ]
        for name, one in found:
            _check_compared(one, sample, name)
        noise[sample.meta.id] = _gathered([one for _, one in found], sample)
    return noise


def _gathered(runs: Iterable[SampleParity], sample: Sample) -> Noise:
    """The noise that the comparisons of some runs with the reference show."""
    limits: dict[str, float] = {}
    alone: set[int] = set()
    scores: set[float] = set()
    segments: set[tuple[bool, int]] = set()
    counts = {sample.detections}
    for run in runs:
        counts.add(run.actual)
        alone |= {one.index for one in run.missing}
        scores |= {one.score for one in (*run.missing, *run.extra)}
        segments |= set(run.segments)
        needs = needed(run, sample.meta.output_scale)
        if run.keypoints:
            needs["keypoint_flip_ratio"] = run.keypoint_flips / run.keypoints
        for name, limit in needs.items():
            limits[name] = max(limit, limits.get(name, 0.0))
    return Noise(
        limits={name: limit for name, limit in limits.items() if limit > 0},
        undetermined=tuple(sorted(alone)),
        scores=tuple(sorted(scores)),
        counts=(min(counts), max(counts)),
        segments=tuple(sorted(segments)),
    )


def _check_compared(found: SampleParity, sample: Sample, name: str) -> None:
    if not found.compared:
        raise DataError(
            f"the eager model gives something else when it is run with {name}",
            got="; ".join(found.reasons),
            expected=f"outputs on {sample.meta.id} that can be compared with the reference",
            remedy="look at the eager model: its own outputs are at fault",
        )


def needed(sample: SampleParity, scale: float) -> dict[str, float]:
    """The least limits, by the tolerance's names, that an image's errors lie within.

    A mask passes by its pixels or by its area: one that passes by the tolerance's needs no other limit.

    Args:
        sample: the measurement of the image.
        scale: output size / input size, with which limits in px of the input grow.
    """
    errors = sample.errors
    limits = {limit: float(errors[name]) for limit, name in PLAIN_LIMITS.items() if name in errors}
    if "box_error_px" in errors:
        # Held against the larger of box_px x scale and box_floor_px.
        limits["box_px"] = limits["box_floor_px"] = errors["box_error_px"] / max(scale, 1.0)
    if "mask_error_px" in errors:
        limits["mask_px"], limits["mask_area_ratio"] = sample.masks_needed
    if "keypoint_error_px" in errors:
        limits["keypoint_px"] = errors["keypoint_error_px"] / scale
    return limits


def widen(tolerance: Tolerance, floor: NoiseFloor) -> Tolerance:
    """The tolerance with no limit below the floor, and none more than ``MOST_WIDENED`` times the table's.

    Where the model differs from itself by more, its runs on the single input decide: see ``Noise``.
    """
    needs = {
        name: min(need, MOST_WIDENED * getattr(tolerance, name) or need)
        for name, need in floor.limits.items()
        if hasattr(tolerance, name)
    }
    return tolerance.widened(needs)


def limits_of(tolerance: Tolerance, floor: NoiseFloor) -> list[Limit]:
    """Every limit that the floor speaks of: floor, table, and what an artifact is compared by."""
    effective = widen(tolerance, floor)
    return [
        Limit(one.name, floor.limits[one.name], getattr(tolerance, one.name), getattr(effective, one.name))
        for one in fields(tolerance)
        if one.name in floor.limits
    ]


def _fields_of(contract: Contract) -> tuple[str, ...]:
    """Names of the model's fields, after post-processing."""
    return (*contract.output_names, *contract.results)


def _raise_to(largest: dict[str, Any], values: dict[str, float]) -> None:
    """Keep the larger of both, name by name."""
    for name, value in values.items():
        known = largest.get(name)
        largest[name] = float(value) if known is None else max(known, float(value))
