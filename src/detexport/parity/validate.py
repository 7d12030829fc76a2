"""Validate an artifact: compare its outputs with the stored reference, image by image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from detexport.artifact import Artifact, read_artifact
from detexport.contract import MAX_SIDE, Contract
from detexport.errors import ConfigError, did_you_mean, listed, memory_guard
from detexport.execution.engine import Execution, Local
from detexport.execution.sessions import OneSession, Sessions, UnopenedError, WorkerSessions
from detexport.outputs import Outputs, array_faults
from detexport.parity.accuracy import Accuracy
from detexport.parity.compare import Noise, NoiseOf, SampleParity, Tolerance, compare
from detexport.parity.noise_floor import NoiseFloor, limits_of, widen
from detexport.parity.verdict import ParityReport
from detexport.parity.worst_images import WorstImages
from detexport.processing.postprocess import postprocess
from detexport.reference.batching import group_by_call, why_unsupported
from detexport.reference.resume import Progress
from detexport.reference.store import Reference, Sample, of_model
from detexport.runtime.session import BatchSession, Engine, Session
from detexport.system.progress import progress_bar


@dataclass(frozen=True)
class Support:
    """Declared support of a target, if it is less than its artifact's.

    Args:
        batch: batch size, ``"1"`` or ``"any"``.
        image_sides: smallest and largest side of an image in px.
    """

    batch: str = "any"
    image_sides: Sequence[int] = (1, MAX_SIDE)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: ``batch`` is another word, or the sides are not two, the smaller one first.
        """
        sides = list(self.image_sides)
        if self.batch not in ("1", "any") or len(sides) != 2 or not 1 <= sides[0] <= sides[1]:
            raise ConfigError(
                "a target's support cannot be used",
                got=f"batch: {self.batch!r}, image_sides: {sides}",
                expected='batch: "1" or "any"; image_sides: two whole numbers, the smaller one first',
                remedy="correct the target's `support`",
            )

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Support":
        """Build the support that the parameters of a target declare.

        Raises:
            ConfigError: a name is none of the fields, or a value cannot be used.
        """
        known = [one.name for one in fields(cls)]
        unknown = [str(name) for name in values if name not in known]
        if unknown:
            raise ConfigError(
                "a target's support has an unknown name",
                got=listed(unknown),
                expected=" or ".join(known),
                remedy=did_you_mean(unknown[0], known) or "correct the target's `support`",
            )
        return cls(**values)

    def narrowed(self, artifact: Artifact) -> Artifact:
        """Return the manifest with its declared support limited to the target's."""
        smallest, largest = artifact.image_sides
        return replace(
            artifact,
            batch=artifact.batch if self.batch == "any" else "1",
            image_sides=(max(smallest, self.image_sides[0]), min(largest, self.image_sides[1])),
        )


def validate(session: Session, reference: Reference, tolerance: Tolerance, **options: Any) -> ParityReport:
    """Run a session of this process on every sample of a reference and compare: see ``validate_sessions``."""
    return validate_sessions(OneSession(session), reference, tolerance, **options)


def validate_sessions(
    sessions: Sessions,
    reference: Reference,
    tolerance: Tolerance,
    *,
    job: str,
    min_detections: int = 1,
    draw: int = 0,
    floor: NoiseFloor | None = None,
    noise_of: NoiseOf | None = None,
    support: Support | None = None,
    measure: Callable[[Sessions], Accuracy] | None = None,
    reduced: bool = False,
    progress: Progress | None = None,
) -> ParityReport:
    """Run sessions on every sample of a reference and compare; memory does not grow with the samples.

    If a session raises on a sample, the sample does not pass and the error is the reason.

    Args:
        sessions: sessions of the artifact, in this process or in the workers of an engine.
        reference: the eager model's outputs.
        tolerance: the limits.
        job: the job's name.
        min_detections: fewest detections or proposals on all samples within the declared support; with fewer
            the job does not pass. Ignored for a model that returns neither.
        draw: number of images whose outputs are kept: those with the largest errors, see ``WorstImages``.
        floor: the model's noise floor, to which limits are widened; None if it was not measured.
        noise_of: measures the noise of samples of one call; called for those that exceed the limits. By
            default the floor's.
        support: declared support of the target, if it is less than the artifact's.
        measure: evaluates the artifact against ground truth; None leaves that out.
        reduced: whether the target computes in less precision than float32. Its accuracy alone decides, and
            numerical errors are reported without limits.
        progress: measurements of an interrupted run, which are not repeated.
    """
    contract = sessions.artifact.contract
    limits = tuple(limits_of(tolerance, floor)) if floor else ()
    table, tolerance = tolerance, widen(tolerance, floor) if floor else tolerance
    noise_of = noise_of or (floor.noise_of if floor else _no_noise)
    worst = WorstImages(draw, table)
    samples = {}
    progress = progress or Progress()
    declared = support.narrowed(sessions.artifact) if support else sessions.artifact
    unsupported_inputs: dict[str, str] = {}
    supported_groups = []
    for group in group_by_call(reference.samples):
        why = why_unsupported(declared, [sample.meta for sample in group])
        if why:
            unsupported_inputs |= {sample.meta.id: why for sample in group}
        else:
            supported_groups.append(group)
    missing = [group for group in supported_groups if not all(_name(sample) in progress for sample in group)]
    measured = sessions.map(Measuring(tolerance, table, noise_of, draw), missing)
    for group in progress_bar(supported_groups, desc=job, unit="image"):
        measure_group = cache(partial(next, measured))
        for index, sample in enumerate(group):
            id = sample.meta.id
            measure_it = partial(_one, measure_group, index, partial(worst.includes, sample.meta))
            samples[id], outputs = progress.once_with_outputs(_name(sample), SampleParity, measure_it)
            worst.add(sample.meta, samples[id], outputs)
    supported = [sample for sample in reference.samples if sample.meta.id not in unsupported_inputs]
    faults = tuple(_reference_faults(reference, supported, contract, min_detections))
    report = ParityReport(
        job,
        sessions.artifact.sha256,
        tolerance,
        contract,
        samples,
        faults,
        limits=limits,
        noise_floor_unmatched=floor.unmatched if floor else 0,
        coverage=reference.coverage,
        unsupported_inputs=unsupported_inputs,
        worst=worst.ids,
        drawn=worst.outputs,
    )
    if measure:
        report = report.with_accuracy(sessions, measure)
    return report.without_limits() if reduced else report


def validate_artifact(
    engine: Engine,
    artifact_dir: Path,
    reference: Reference,
    tolerance: Tolerance,
    *,
    execution: Execution | None = None,
    **options: Any,
) -> ParityReport:
    """Open an artifact and validate it; an artifact that its runtime cannot open does not pass.

    Args:
        engine: the target's runtime.
        artifact_dir: the artifact.
        reference: the eager model's outputs.
        tolerance: the limits.
        execution: engine that runs the artifact; by default this process.
        options: see ``validate_sessions``.

    Raises:
        ArtifactError: the folder is not an artifact.
        RuntimeUnavailableError: the runtime is not on this machine.
    """
    artifact = read_artifact(artifact_dir)
    sessions = WorkerSessions(execution or Local(), engine, artifact_dir)
    try:
        return validate_sessions(sessions, reference, tolerance, **options)
    except UnopenedError as error:
        return ParityReport(options["job"], artifact.sha256, tolerance, artifact.contract, {}, (str(error),))


Measured = tuple[SampleParity, Outputs | None]
"""The measurement of a sample, and the runtime's outputs if it returned any."""


def _name(sample: Sample) -> str:
    """Return the name under which the measurement of a sample is kept."""
    return f"sample {sample.meta.id}"


@dataclass(frozen=True)
class Measuring:
    """Measures groups of samples in one worker.

    Args:
        tolerance: the limits, widened by the noise floor.
        table: the limits before they are widened.
        noise_of: see ``validate_sessions``.
        draw: number of images whose outputs are kept.
    """

    tolerance: Tolerance
    table: Tolerance
    noise_of: NoiseOf
    draw: int

    def __call__(self, session: Session) -> Callable[[tuple[Sample, ...]], list[Measured]]:
        """Return the function that measures a group.

        It returns outputs only of samples that are among the worst of those that it was called with so far:
        no others can be among the worst of all.
        """
        worst = WorstImages(self.draw, self.table)

        def measure(group: tuple[Sample, ...]) -> list[Measured]:
            kept: list[Measured] = []
            for sample, (one, outputs) in zip(group, self._measure(session, group), strict=True):
                kept.append((one, outputs if worst.includes(sample.meta, one) else None))
                worst.add(sample.meta, one, None)
            return kept

        return measure

    def _measure(self, session: Session, group: tuple[Sample, ...]) -> list[Measured]:
        return _measure(session, group, self.tolerance, self.table, self.noise_of)


def _one(
    measure_group: Callable[[], list[Measured]], index: int, is_kept: Callable[[SampleParity], bool]
) -> Measured:
    """Return the measurement of one sample of a group; its outputs only if they are to be kept."""
    measured, outputs = measure_group()[index]
    return measured, outputs if is_kept(measured) else None


def _no_noise(_: Sequence[Sample]) -> Mapping[str, Noise]:
    return {}


def _measure(
    session: Session,
    group: tuple[Sample, ...],
    tolerance: Tolerance,
    table: Tolerance,
    noise_of: NoiseOf,
) -> list[Measured]:
    """Run samples in one call, and measure each.

    A sample that exceeds the limits is compared again with the noise of the model's own runs.
    """
    contract = session.artifact.contract
    try:
        outputs = _run(session, group, contract)
    except MemoryError:  # a fault of the machine, not of the artifact
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return [(SampleParity(sample.detections, 0, broken=(reason,)), None) for sample in group]

    def compared(sample: Sample, actual: Outputs, noise: Noise | None = None) -> SampleParity:
        one = compare(
            sample.expected(),
            actual,
            tolerance=tolerance,
            contract=contract,
            scale=sample.meta.output_scale,
            noise=noise,
        )
        return replace(one, noise_dominated=noise.noise_dominated(table)) if noise else one

    measured = [compared(sample, actual) for sample, actual in zip(group, outputs, strict=True)]
    if any(one.numerics or one.matching for one in measured):
        noise = noise_of(group)
        measured = [
            compared(sample, actual, noise[sample.meta.id])
            if (one.numerics or one.matching) and sample.meta.id in noise
            else one
            for sample, actual, one in zip(group, outputs, measured, strict=True)
        ]
    return list(zip(measured, outputs, strict=True))


def _run(session: Session, group: tuple[Sample, ...], contract: Contract) -> list[Outputs]:
    """Return the post-processed outputs of a sample, or of the samples of a batch in one call."""
    images = [sample.image() for sample in group]
    sizes = [sample.meta.output_size for sample in group]
    with memory_guard(*(image.shape for image in images)):
        if group[0].meta.batch:
            raw_outputs = cast(BatchSession, session).run_batch(images, sizes)
        else:
            raw_outputs = [session(images[0], sizes[0])]
        processed = []
        for image, size, outputs in zip(images, sizes, raw_outputs, strict=True):
            faults = output_faults(outputs, contract, image, size)
            if faults:
                raise ValueError("; ".join(faults))
            processed.append(postprocess(outputs, image.shape[1:], size, contract))
        return processed


def output_faults(
    outputs: dict[str, np.ndarray], contract: Contract, image: np.ndarray, output_size: tuple[int, int]
) -> list[str]:
    """Return where raw outputs break the contract: names, dtypes, shapes, NaN."""
    if tuple(outputs) != contract.output_names:
        return [f"outputs {list(outputs)}, the contract declares {list(contract.output_names)}"]
    # Sizes of the dynamic dimensions by name: of the image and of the output frame.
    sides = zip(contract.inputs[0].shape, image.shape, strict=True)
    sizes = {dim: size for dim, size in sides if isinstance(dim, str)}
    sizes |= zip(("height", "width"), output_size, strict=True)
    return [
        fault
        for spec in contract.outputs
        for fault in array_faults(spec.name, outputs[spec.name], spec.dtype, spec.shape, sizes)
    ]


def _reference_faults(
    reference: Reference, supported: Sequence[Sample], contract: Contract, min_detections: int
) -> list[str]:
    """Return why the reference cannot validate the artifact, whatever the artifact returns."""
    faults = []
    differences = of_model(contract).differences(reference.contract)
    if differences:
        faults.append(f"the artifact's contract differs from the reference's: {listed(differences)}")
    count = sum(sample.detections for sample in supported)
    if not supported or (contract.row_names and count < min_detections):
        faults.append(
            f"the reference has too few detections: {count} on the {len(supported)} inputs that the artifact "
            f"supports, expected at least {min_detections}"
        )
    return faults
