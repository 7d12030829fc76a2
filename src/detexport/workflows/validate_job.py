"""Validate a job of the pipeline: a target's artifact against the stored outputs of its model.

Nothing here imports a model's code: an artifact must run without it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detexport.artifact import read_artifact
from detexport.data.coco import load_coco
from detexport.execution.engine import Execution
from detexport.metrics.evaluate import annotation_kind
from detexport.parity.accuracy import FLOAT32
from detexport.parity.noise_floor import read_noise_floor
from detexport.parity.settings import ParitySettings
from detexport.parity.validate import Support
from detexport.parity.verdict import ParityReport
from detexport.reference.store import read_reference
from detexport.runtime.session import Engine
from detexport.workflows.reference_validation import ReportFiles, validate_against_reference


def validate_job(
    job: str,
    artifact_dir: Path,
    engine: Engine,
    reference: Path,
    floor: Path,
    data: Path,
    files: ReportFiles,
    target: Mapping[str, Any],
    parity: Mapping[str, Any],
    categories: Sequence[str] | None = None,
    execution: Execution | None = None,
) -> ParityReport:
    """Validate the artifact of a job, and write the report with its certificate.

    Args:
        job: name of the job.
        artifact_dir: the artifact.
        engine: the target's runtime.
        reference: folder of the eager model's outputs.
        floor: file of the model's noise floor.
        data: the data set, for the task metric if the reference has one.
        files: the files to write.
        target: the target's parameters: ``runtime``, optionally ``precision`` and ``support``.
        parity: limits and budgets, see ``ParitySettings.of``.
        categories: names of the data set's classes to keep; none keeps all.
        execution: engine that runs the artifact; by default this process.

    Raises:
        DetexportError: see ``validate_against_reference``.
    """
    settings = ParitySettings.of(parity)
    precision = target.get("precision", FLOAT32)
    artifact, expected = read_artifact(artifact_dir), read_reference(reference)
    dataset = None
    is_evaluated = settings.accuracy_images and (
        precision != FLOAT32 or precision in settings.accuracy_precisions
    )
    if is_evaluated and expected.accuracy is not None:
        dataset = load_coco(data, "val", categories, annotation_kind(artifact.contract))
    report = validate_against_reference(
        artifact_dir,
        engine,
        expected,
        settings,
        job=job,
        precision=precision,
        floor=read_noise_floor(floor),
        dataset=dataset,
        data=data,
        support=Support.of(target["support"]) if "support" in target else None,
        save_to=files.report,
        run_options={"runtime": target["runtime"]},
        execution=execution,
    )
    files.write(report, artifact, expected, target["runtime"], settings, precision)
    return report
