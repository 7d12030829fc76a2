"""Validate an artifact, for the stage, ``detexport validate`` and the check of an export.

Nothing here imports a model's code: an artifact must run without it.
"""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact, read_artifact
from detexport.data.coco import CocoDataset
from detexport.errors import ConfigError, DataError
from detexport.execution.engine import Execution
from detexport.parity.accuracy import FLOAT32, measure_accuracy
from detexport.parity.certificate import certify
from detexport.parity.compare import NoiseOf
from detexport.parity.noise_floor import NoiseFloor
from detexport.parity.settings import ParitySettings
from detexport.parity.validate import Support, validate_artifact
from detexport.parity.validation_plan import ValidationPlan
from detexport.parity.verdict import ParityReport
from detexport.reference.resume import Progress, progress_folder, validation_key
from detexport.reference.store import EagerAccuracy, Reference
from detexport.runtime.session import Engine
from detexport.system.child_process import call_in_child
from detexport.system.files import write_json


@dataclass(frozen=True)
class ReportFiles:
    """The files of a validation.

    Args:
        report: the verdicts and the measurements.
        drawn: outputs for the drawings of the report.
        certificate: the certificate, which the registry requires.
    """

    report: Path
    drawn: Path
    certificate: Path

    def write(
        self,
        report: ParityReport,
        artifact: Artifact,
        reference: Reference,
        runtime: dict[str, Any],
        settings: ParitySettings,
        precision: str,
    ) -> None:
        """Write the report of an artifact that was run by ``runtime``, and compared with ``reference``."""
        report.save(self.report, self.drawn)
        certificate = certify(
            report.to_json(),
            artifact,
            reference=reference.folder,
            runtime=runtime,
            plan=ValidationPlan.of(reference, settings, precision, report.accuracy),
        )
        write_json(self.certificate, certificate)


def validate_against_reference(
    artifact_dir: Path,
    engine: Engine,
    reference: Reference,
    settings: ParitySettings,
    *,
    job: str,
    precision: str = FLOAT32,
    floor: NoiseFloor | None = None,
    noise_of: NoiseOf | None = None,
    dataset: CocoDataset | None = None,
    data: Path | None = None,
    support: Support | None = None,
    save_to: Path | None = None,
    run_options: dict[str, Any] | None = None,
    execution: Execution | None = None,
) -> ParityReport:
    """Validate an artifact against a reference.

    Args:
        artifact_dir: the artifact.
        engine: the target's runtime.
        reference: the eager model's outputs.
        settings: limits and budgets.
        job: name of the job.
        precision: precision of the target; a reduced one is evaluated by the task metric alone.
        floor: the model's noise floor; None if it was not measured.
        noise_of: see ``detexport.parity.validate.validate_sessions``.
        dataset: annotated images that the eager model was evaluated on; None leaves the task metric out.
        data: the data set's folder; measurements on other files are not continued.
        support: declared support of the target, if it is less than the artifact's.
        save_to: the report's file; measurements are kept next to it until the end, so that an interrupted
            validation continues. None keeps nothing.
        run_options: other values that the measurements depend on, as JSON values.
        execution: engine that runs the artifact; by default this process.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: there is no budget for the precision.
        DataError: the precision is reduced, and the reference or the data set has no annotations.
        RuntimeUnavailableError: the runtime is not on this machine.
    """
    with ExitStack() as at_work:
        progress = Progress()
        if save_to is not None:
            given = {
                "job": job,
                "settings": repr(settings),
                "precision": precision,
                "floor": floor.to_json() if floor else None,
                "classes": list(dataset.class_names) if dataset else None,
                "support": asdict(support) if support else None,
                **(run_options or {}),
            }
            key = validation_key(read_artifact(artifact_dir).sha256, reference.folder, data, given)
            progress = at_work.enter_context(Progress(progress_folder(save_to), key, job))
        eager = _eager_accuracy(precision, reference.accuracy, dataset, settings)
        measure = None
        if eager is not None and dataset is not None:
            measure = partial(
                measure_accuracy,
                eager=eager,
                dataset=dataset,
                precision=precision,
                budget=settings.budgets[precision],
                least=settings.min_accuracy,
                tie=settings.tolerance.score if precision == FLOAT32 else 0.0,
                progress=progress,
            )
        return validate_artifact(
            engine,
            artifact_dir,
            reference,
            settings.tolerance,
            execution=execution,
            job=job,
            min_detections=settings.min_detections,
            draw=settings.draw,
            floor=floor,
            noise_of=noise_of,
            support=support,
            measure=measure,
            reduced=precision != FLOAT32,
            progress=progress,
        )


def _eager_accuracy(
    precision: str, accuracy: EagerAccuracy | None, dataset: CocoDataset | None, settings: ParitySettings
) -> EagerAccuracy | None:
    """Return the eager metrics to compare with; None if left out, which reduced precision must not."""
    if precision not in settings.budgets:
        raise ConfigError(
            f"there is no budget for the precision {precision}",
            got=f"parity.budgets: {', '.join(settings.budgets)}",
            expected=precision,
            remedy=f"-S +parity.budgets.{precision}=<difference of average precision>",
        )
    if precision != FLOAT32 and (accuracy is None or dataset is None):
        raise DataError(
            "reduced precision is evaluated by the task metric, and the reference has none",
            got="parity.accuracy_images=0" if accuracy is None else "no annotated images",
            expected="the eager model's metrics on annotated images",
            remedy="set parity.accuracy_images, and run the stage `reference` again",
        )
    return accuracy if precision in settings.accuracy_precisions or precision != FLOAT32 else None


def validate_apart(*arguments: Any, **options: Any) -> ParityReport:
    """Run ``validate_against_reference`` in a child process, in which no model was built.

    Raises:
        Exception: as ``validate_against_reference`` and ``call_in_child``.
    """
    report: ParityReport = call_in_child(
        validate_against_reference, *arguments, what="the process that validates", **options
    )
    return report
