"""Validate an artifact: its runtime against the stored reference, one image after another."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.artifact import read_artifact
from detexport.contract import Contract
from detexport.errors import RuntimeUnavailableError
from detexport.parity.compare import SampleParity, Tolerance, compare
from detexport.parity.outputs import Outputs, array_faults
from detexport.parity.quality import Quality
from detexport.parity.reference import Reference, Sample, contract_sha256
from detexport.parity.report import ParityReport
from detexport.postprocess import postprocess
from detexport.runtime.session import Engine, Session, memory_guard


def validate(
    session: Session,
    reference: Reference,
    tolerance: Tolerance,
    *,
    job: str,
    min_detections: int = 1,
    draw: int = 0,
    measure: Callable[[Session], Quality] | None = None,
    reduced: bool = False,
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
        measure: how what the artifact finds is held against annotations; none leaves that out.
        reduced: whether the target computes in less than float32: that alone judges it then, errors are
            evidence.
    """
    contract = session.artifact.contract
    drawn_ids = first_of_each_image(reference.samples)[:draw]
    samples, drawn = {}, {}
    for sample in tqdm(reference.samples, desc=job, unit="image"):
        try:
            actual = _run(session, sample, contract)
        except MemoryError:  # says something of the machine, nothing of the artifact
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            samples[sample.meta.id] = SampleParity(sample.detections, 0, broken=(reason,))
            continue
        samples[sample.meta.id] = compare(
            sample.expected(),
            actual,
            tolerance=tolerance,
            contract=contract,
            scale=_scale(sample),
        )
        if sample.meta.id in drawn_ids:
            drawn[sample.meta.id] = actual
    faults = tuple(_reference_faults(reference, contract, min_detections))
    report = ParityReport(job, session.artifact.sha256, tolerance, contract, samples, faults, drawn=drawn)
    if measure:
        report = report.judged_by(session, measure)
    return report.as_evidence() if reduced else report


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
    """Ids of the first sample of each image."""
    first: dict[int, str] = {}
    for sample in samples:
        first.setdefault(sample.meta.image_id, sample.meta.id)
    return list(first.values())


def _run(session: Session, sample: Sample, contract: Contract) -> Outputs:
    image, output_size = sample.image(), sample.meta.output_size
    with memory_guard(image.shape):
        outputs = session(image, output_size)
        faults = output_faults(outputs, contract, image, output_size)
        if faults:
            raise ValueError("; ".join(faults))
        return postprocess(outputs, sample.meta.image_size, output_size, contract)


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
