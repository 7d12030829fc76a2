"""Check a fresh artifact against the model that it was made of, on few inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.contract import Contract
from detexport.data.coco import CocoDataset, CocoRecord, read_image
from detexport.parity.accuracy import FLOAT32
from detexport.parity.noise_variants import measured_noise
from detexport.parity.settings import Rules
from detexport.parity.verdict import ParityReport
from detexport.reference.inputs import QUICK
from detexport.reference.run import eager_samples
from detexport.reference.store import EagerAccuracy, write_reference
from detexport.runtime.session import Engine
from detexport.workflows.validate import validate_job


def check_artifact(
    artifact_dir: Path,
    engine: Engine,
    net: Any,
    contract: Contract,
    files: Sequence[Path],
    reference: Path,
    *,
    job: str,
    precision: str = FLOAT32,
    accuracy: EagerAccuracy | None = None,
    dataset: CocoDataset | None = None,
) -> ParityReport:
    """Run the model on the samples, at several sizes, and validate the artifact against it.

    The model's own noise is measured on those inputs alone that do not pass by the table of limits. A model
    that detects nothing on the samples passes with an artifact that detects nothing either; the report counts
    the detections, so the caller can warn that none was compared.

    Args:
        artifact_dir: the artifact.
        engine: the target's runtime.
        net: the eager model, in evaluation mode.
        contract: its contract.
        files: images.
        reference: folder for the model's outputs.
        job: the target's name.
        precision: of the target.
        accuracy: what the model reached on ``dataset``; none leaves the task metric out.
        dataset: annotated images.
    """
    rules = Rules(draw=0, min_detections=0)
    records = [_record(number, file, contract) for number, file in enumerate(files, start=1)]
    samples = eager_samples(net, contract, records, QUICK)
    write_reference(reference, samples, contract=contract, environment={}, accuracy=accuracy)
    return validate_job(
        artifact_dir,
        engine,
        reference,
        rules,
        job=job,
        precision=precision,
        noise_of=measured_noise(net, contract, rules.tolerance),
        dataset=dataset,
    )


def _record(number: int, file: Path, contract: Contract) -> CocoRecord:
    _, height, width = read_image(file, contract.channel_order).shape
    return CocoRecord(number, file, height, width, ())
