"""Check an exported artifact against its model, on few inputs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detexport.contract import Contract
from detexport.data.coco import CocoDataset, CocoRecord, read_image
from detexport.parity.accuracy import FLOAT32
from detexport.parity.eager_variants import measured_noise
from detexport.parity.settings import default_settings
from detexport.parity.verdict import ParityReport
from detexport.reference.input_kinds import QUICK
from detexport.reference.store import read_reference
from detexport.runtime.session import Engine
from detexport.workflows.loaded_model import LoadedModel
from detexport.workflows.make_reference import make_reference
from detexport.workflows.reference_validation import validate_against_reference


def check_artifact(
    artifact_dir: Path,
    engine: Engine,
    model: LoadedModel,
    images: Sequence[Path],
    reference: Path,
    *,
    job: str,
    precision: str = FLOAT32,
    dataset: CocoDataset | None = None,
) -> ParityReport:
    """Run the model on the images, at several sizes, and validate the artifact against it.

    The model's own noise is measured only on inputs that exceed the tolerance. If the model detects nothing
    on the images, an artifact that detects nothing passes; the report counts the detections, so that the
    caller can warn that none was compared.

    Args:
        artifact_dir: the artifact.
        engine: the target's runtime.
        model: the eager model.
        images: image files.
        reference: folder for the model's outputs.
        job: name in the report.
        precision: of the target.
        dataset: annotated images; none leaves the task metric out.
    """
    settings = replace(default_settings(), draw=0, min_detections=0)
    records = [_record(number, file, model.contract) for number, file in enumerate(images, start=1)]
    make_reference(model, records, replace(settings.plan, kinds=QUICK), reference, dataset=dataset)
    return validate_against_reference(
        artifact_dir,
        engine,
        read_reference(reference),
        settings,
        job=job,
        precision=precision,
        noise_of=measured_noise(model.net, model.contract, settings.tolerance),
        dataset=dataset,
    )


def _record(number: int, file: Path, contract: Contract) -> CocoRecord:
    _, height, width = read_image(file, contract.channel_order).shape
    return CocoRecord(number, file, height, width, ())
