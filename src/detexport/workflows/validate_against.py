"""Validate an artifact against its model, another artifact, or the pipeline's stored reference."""

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detexport.artifact import Artifact, read_verified
from detexport.errors import ConfigError
from detexport.metrics.evaluate import with_skip_remedy
from detexport.parity.accuracy import FLOAT32
from detexport.parity.settings import ParitySettings, default_settings
from detexport.parity.verdict import ParityReport
from detexport.reference.store import read_reference
from detexport.system.files import output_errors
from detexport.system.progress import Step, silent
from detexport.workflows.choose_runtime import OnDevice, asked_target, engine_of
from detexport.workflows.expected_outputs import (
    WITHOUT_ACCURACY,
    Comparison,
    Expected,
    artifact_outputs,
    model_outputs,
    pipeline_outputs,
)
from detexport.workflows.model_folder import require_other_side
from detexport.workflows.model_source import ModelSource
from detexport.workflows.reference_validation import ReportFiles, validate_apart
from detexport.workflows.validation_data import load_annotated

if TYPE_CHECKING:
    from detexport.workflows.loaded_model import LoadedModel

REPORT, CERTIFICATE, DRAWN = "parity.json", "certificate.json", "drawn.npz"


def validate_against(
    artifact_dir: Path,
    other: "ModelSource | LoadedModel | Path | None" = None,
    *,
    data: Path | None = None,
    target: str = "",
    other_target: str = "",
    images: int | None = None,
    accuracy_images: int | None = None,
    device: str = "cpu",
    settings: ParitySettings | None = None,
    save_dir: Path | None = None,
    step: Step = silent,
) -> ParityReport:
    """Compare an artifact with a model or another artifact, in a child process without a model's code.

    Args:
        artifact_dir: the artifact.
        other: a model, or the folder of another artifact; by default the reference that the pipeline stored
            next to its artifacts.
        data: data set in the standard layout or in that of COCO's downloads; needed with ``other``.
        target: run the artifact as this target; empty: in its format's runtime, in float32.
        other_target: run the other artifact as this target.
        images: number of images of the data set, by default that of ``settings``; the pipeline's reference
            has its own.
        accuracy_images: number of annotated images for AP, by default that of ``settings``; 0 leaves AP out.
        device: where artifacts run.
        settings: tolerance, budgets and inputs; by default those of ``conf/parity/default.yaml``.
        save_dir: folder for the report and the certificate. Measurements are kept there until the end, so
            that an interrupted validation continues. None keeps nothing.
        step: reports each step: see ``Step``.

    Raises:
        ArtifactError: a folder is not an artifact, its files were changed, or the two differ in the model.
        ConfigError: there is nothing to compare the artifact with, or reduced precision has no annotations.
        DataError: the data set has no image, or lacks annotations of the task metric.
        OutputError: the folder for the results cannot be written.
        RuntimeUnavailableError: a runtime is not on this machine.
    """
    require_other_side(artifact_dir, is_given=other is not None, data=data)
    artifact = read_verified(artifact_dir)
    asked = asked_target(artifact, target)
    precision = (asked.precision if asked else "") or FLOAT32
    settings = (settings or default_settings()).with_images(images, accuracy_images, precision)
    is_evaluated = data is not None and settings.accuracy_images > 0
    if precision != FLOAT32 and not is_evaluated:
        raise without_accuracy(precision, WITHOUT_ACCURACY if data else "no --data")
    with ExitStack() as at_work:
        work = save_dir or Path(at_work.enter_context(tempfile.TemporaryDirectory()))
        at_work.enter_context(output_errors(work))
        files = ReportFiles(work / REPORT, work / DRAWN, work / CERTIFICATE)
        if other is None or data is None:
            expected = pipeline_outputs(artifact_dir)
        else:
            comparison = Comparison(data, settings, work)
            expected = _run_other(other, artifact, comparison, at_work, other_target, device, step)
        reference = read_reference(expected.reference)
        if precision != FLOAT32 and reference.accuracy is None:
            raise without_accuracy(precision, f"no metric in {expected.reference}")
        with with_skip_remedy(WITHOUT_ACCURACY):
            has_accuracy = is_evaluated and reference.accuracy is not None
            dataset = load_annotated(data, artifact.contract) if data and has_accuracy else None
        report = validate_apart(
            artifact_dir,
            OnDevice(engine_of(artifact_dir, target), device),
            reference,
            replace(settings, draw=0),
            job=f"{artifact_dir} against {expected.name}",
            precision=precision,
            floor=expected.floor,
            dataset=dataset,
            data=data,
            save_to=files.report if save_dir else None,
            run_options={"target": target, "device": device},
        )
        if save_dir is not None:
            runtime = {"target": target or "the format's own", "device": device}
            files.write(report, artifact, reference, runtime, settings, precision)
    return report


def _run_other(
    other: "ModelSource | LoadedModel | Path",
    artifact: Artifact,
    comparison: Comparison,
    at_work: ExitStack,
    target: str,
    device: str,
    step: Step,
) -> Expected:
    if isinstance(other, Path):
        return artifact_outputs(other, artifact, comparison, at_work, target=target, device=device)
    if isinstance(other, ModelSource):
        from detexport.workflows.load_model import load_model

        with step("build the model and load its weights"):
            other = load_model(other)
    return model_outputs(other, artifact, comparison, at_work)


def without_accuracy(precision: str, got: str) -> ConfigError:
    """Return the error that an artifact of reduced precision has no metric to be evaluated by."""
    return ConfigError(
        f"{precision} is evaluated by the task metric alone, and there is none",
        got=got,
        expected="annotated images, on which the model or the other artifact was evaluated, too",
        remedy="give --data, and --accuracy-images greater than 0 (in Python: data=..., accuracy_images=...)",
    )
