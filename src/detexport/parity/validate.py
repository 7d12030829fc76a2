"""Validate an artifact: its runtime against the stored reference, one image after another."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from detexport.artifact import read_artifact
from detexport.contract import Contract
from detexport.errors import DataError, RuntimeUnavailableError
from detexport.files import atomic_file, write_json
from detexport.parity.compare import SampleParity, Tolerance, compare
from detexport.parity.inputs import claimed, groups
from detexport.parity.measures import measured
from detexport.parity.outputs import Outputs, array_faults, pack, unpack
from detexport.parity.quality import Quality
from detexport.parity.reference import DATA, Reference, Sample, contract_sha256
from detexport.postprocess import postprocess
from detexport.runtime.session import BatchSession, Engine, Session, memory_guard


@dataclass(frozen=True)
class ParityReport:
    """The verdict on one job, with its evidence.

    Args:
        job: the job's name.
        artifact_sha256: the artifact that was run.
        tolerance: the limits; none where the precision is reduced, and errors are evidence alone.
        contract: the artifact's; what the model gives decides what is measured.
        samples: the measurement of each sample, by its id.
        faults: what is wrong beyond single samples.
        quality: where the precision is reduced, what was reached against annotations.
        left_out: why a sample was not run, by its id: what the artifact does not claim.
        drawn: the runtime's outputs on a few samples, for pictures; not part of the JSON.
    """

    job: str
    artifact_sha256: str
    tolerance: Tolerance | None
    contract: Contract
    samples: dict[str, SampleParity]
    faults: tuple[str, ...] = ()
    quality: Quality | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    drawn: dict[str, Outputs] = field(default_factory=dict, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """Whether every sample passed and nothing else is wrong."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the job did not pass; where samples say so, their ids come first, equal reasons told once."""
        ids_by_reason: dict[str, list[str]] = {}
        for id, sample in self.samples.items():
            for reason in sample.reasons:
                ids_by_reason.setdefault(reason, []).append(id)
        of_samples = (
            f"{first} and {len(others)} more: {reason}" if others else f"{first}: {reason}"
            for reason, (first, *others) in ids_by_reason.items()
        )
        of_quality = self.quality.faults if self.quality else ()
        return (*self.faults, *self._keypoint_faults(), *of_quality, *of_samples)

    @property
    def keypoint_flip_ratio(self) -> float | None:
        """The part of all samples' keypoints that lie elsewhere; ``None`` where there are none."""
        compared = sum(sample.keypoints for sample in self.samples.values())
        flipped = sum(sample.keypoint_flips for sample in self.samples.values())
        return flipped / compared if compared else None

    def _keypoint_faults(self) -> list[str]:
        if self.tolerance is None:
            return []
        ratio, limit = self.keypoint_flip_ratio or 0.0, self.tolerance.keypoint_flip_ratio
        return [f"keypoints: {ratio:.2%} of all lie elsewhere (limit {limit:.2%})"] if ratio > limit else []

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; an error is null where nothing could be compared."""
        samples = self.samples.values()
        return {
            "job": self.job,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "tolerance": asdict(self.tolerance) if self.tolerance else None,
            "quality": self.quality.to_json() if self.quality else None,
            "artifact_sha256": self.artifact_sha256,
            "max": {name: self._largest(name) for name in self._measured()},
            "detections": {
                "expected": sum(sample.expected for sample in samples),
                "actual": sum(sample.actual for sample in samples),
                "paired": sum(sample.paired for sample in samples),
            },
            "not_claimed": self.left_out,
            "samples": [{"id": id, **sample.to_json()} for id, sample in self.samples.items()],
        }

    def judged_by(self, session: Session, measure: Callable[[Session], Quality]) -> "ParityReport":
        """This report for an artifact of reduced precision: errors stay as evidence, without limits.

        What could not be compared at all, or not be judged, stays a reason.
        """
        samples = {
            id: replace(sample, reasons=(), box_limit_px=None) if sample.compared else sample
            for id, sample in self.samples.items()
        }
        quality, faults = None, self.faults
        try:
            quality = measure(session)
        except (DataError, MemoryError):  # says nothing of the artifact
            raise
        except Exception as error:
            faults = (*faults, f"quality: {type(error).__name__}: {error}")
        return replace(self, tolerance=None, samples=samples, faults=faults, quality=quality)

    def _measured(self) -> list[str]:
        return measured((*self.contract.output_names, *self.contract.results))

    def _largest(self, name: str) -> float | None:
        if name == "keypoint_flip_ratio":
            return self.keypoint_flip_ratio
        return max((one.errors[name] for one in self.samples.values() if name in one.errors), default=None)

    def save(self, path: Path, drawn_path: Path) -> None:
        """Write the JSON, and the drawn samples' outputs as a file of arrays."""
        arrays = {
            f"{id}/{name}": value
            for id, outputs in self.drawn.items()
            for name, value in pack(outputs).items()
        }
        with atomic_file(drawn_path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        write_json(path, self.to_json())


def read_drawn(path: Path) -> dict[str, Outputs]:
    """Read the outputs that ``ParityReport.save`` wrote, by sample id."""
    with np.load(path) as arrays:
        ids = dict.fromkeys(name.rpartition("/")[0] for name in arrays.files)
        return {
            id: unpack(
                {
                    name.removeprefix(f"{id}/"): arrays[name]
                    for name in arrays.files
                    if name.startswith(f"{id}/")
                }
            )
            for id in ids
        }


def validate(
    session: Session,
    reference: Reference,
    tolerance: Tolerance,
    *,
    job: str,
    min_detections: int = 1,
    draw: int = 0,
    measure: Callable[[Session], Quality] | None = None,
) -> ParityReport:
    """Run a session on every sample of a reference and compare; memory does not grow with their number.

    An error that the session raises is evidence: the sample does not pass, and the error is the reason.

    Args:
        session: the loaded artifact.
        reference: the eager model's outputs.
        tolerance: the limits.
        job: the job's name.
        min_detections: a reference with fewer detections or proposals in all proves nothing, and the job does
            not pass; where the model gives neither, there is nothing to count.
        draw: keep the outputs on the first sample of so many images.
        measure: for reduced precision, how the artifact is judged instead of by the tolerance.
    """
    contract = session.artifact.contract
    drawn_ids = first_of_each_image(reference.samples)[:draw]
    samples, drawn = {}, {}
    left_out: dict[str, str] = {}
    for group in tqdm(groups(reference.samples), desc=job, unit="image"):
        unclaimed = claimed(session.artifact, [sample.meta for sample in group])
        if unclaimed:
            left_out |= {sample.meta.id: unclaimed for sample in group}
            continue
        try:
            found = _run(session, group, contract)
        except MemoryError:  # says something of the machine, nothing of the artifact
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            for sample in group:
                samples[sample.meta.id] = SampleParity(sample.detections, 0, reasons=(reason,))
            continue
        for sample, actual in zip(group, found, strict=True):
            samples[sample.meta.id] = compare(
                sample.expected(), actual, tolerance=tolerance, contract=contract, scale=_scale(sample)
            )
            if sample.meta.id in drawn_ids:
                drawn[sample.meta.id] = actual
    faults = tuple(_reference_faults(reference, contract, min_detections))
    report = ParityReport(
        job, session.artifact.sha256, tolerance, contract, samples, faults, left_out=left_out, drawn=drawn
    )
    return report.judged_by(session, measure) if measure else report


def validate_artifact(
    engine: Engine, artifact_dir: Path, reference: Reference, tolerance: Tolerance, **options: Any
) -> ParityReport:
    """Open an artifact and ``validate`` it; one that its runtime cannot open does not pass.

    Raises:
        ArtifactError: the folder is not an artifact.
        RuntimeUnavailableError: the runtime is not on this machine, which says nothing of the artifact.
    """
    artifact = read_artifact(artifact_dir)
    try:
        session = engine.open(artifact_dir)
    except (RuntimeUnavailableError, MemoryError):
        raise
    except Exception as error:
        fault = f"cannot be opened: {type(error).__name__}: {error}"
        return ParityReport(options["job"], artifact.sha256, tolerance, artifact.contract, {}, (fault,))
    return validate(session, reference, tolerance, **options)


def first_of_each_image(samples: Iterable[Sample]) -> list[str]:
    """Ids of the first sample of each image of the data set."""
    first: dict[int, str] = {}
    for sample in samples:
        if sample.meta.kind == DATA:
            first.setdefault(sample.meta.image_id, sample.meta.id)
    return list(first.values())


def _run(session: Session, group: tuple[Sample, ...], contract: Contract) -> list[Outputs]:
    """The outputs of a sample, or of all of a batch in one call."""
    images = [sample.image() for sample in group]
    sizes = [sample.meta.output_size for sample in group]
    with memory_guard(*(image.shape for image in images)):
        if group[0].meta.batch:
            given = cast(BatchSession, session).run_batch(images, sizes)
        else:
            given = [session(images[0], sizes[0])]
        found = []
        for image, size, outputs in zip(images, sizes, given, strict=True):
            faults = output_faults(outputs, contract, image, size)
            if faults:
                raise ValueError("; ".join(faults))
            found.append(postprocess(outputs, image.shape[1:], size, contract))
        return found


def output_faults(
    outputs: dict[str, np.ndarray], contract: Contract, image: np.ndarray, output_size: tuple[int, int]
) -> list[str]:
    """Say where the outputs break the contract (names, dtypes, shapes, NaN) before anything hides it."""
    if tuple(outputs) != contract.output_names:
        return [f"outputs {list(outputs)}, the contract says {list(contract.output_names)}"]
    # Sizes of the free dimensions by name; those of the image and of the wanted output are the outputs' too.
    sides = zip(contract.inputs[0].shape, image.shape, strict=True)
    sizes = {dim: size for dim, size in sides if isinstance(dim, str)}
    sizes |= zip(("height", "width"), output_size, strict=True)
    return [
        fault
        for spec in contract.outputs
        for fault in array_faults(spec.name, outputs[spec.name], spec.dtype, spec.shape, sizes)
    ]


def _reference_faults(reference: Reference, contract: Contract, min_detections: int) -> list[str]:
    faults = []
    if reference.contract_sha256 != contract_sha256(contract):
        faults.append("the artifact's contract is not the one that the reference was made with")
    count = sum(sample.detections for sample in reference.samples)
    if not reference.samples or (contract.row_names and count < min_detections):
        faults.append(
            f"the reference proves nothing: {count} detections on {len(reference.samples)} samples, "
            f"at least {min_detections} wanted"
        )
    return faults


def _scale(sample: Sample) -> float:
    pairs = zip(sample.meta.output_size, sample.meta.image_size, strict=True)
    return max(output / image for output, image in pairs)
