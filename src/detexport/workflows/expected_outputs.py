"""The expected outputs of a validation: of the model or of another artifact, on the same inputs.

Torch is imported for a model alone: two artifacts are compared without it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from detexport.artifact import Artifact, read_verified
from detexport.contract import Contract
from detexport.data.coco import CocoDataset, records_of
from detexport.engine.evaluation import select_evenly
from detexport.errors import ArtifactError, listed
from detexport.execution.sessions import OneSession
from detexport.metrics.evaluate import Evaluator, with_skip_remedy
from detexport.metrics.tallies import pack_tallies
from detexport.outputs import Outputs
from detexport.parity.accuracy import evaluate_images
from detexport.parity.noise_floor import NoiseFloor, read_noise_floor
from detexport.parity.settings import ParitySettings
from detexport.processing.postprocess import postprocess
from detexport.reference.inputs import resumed_inputs
from detexport.reference.resume import Progress, progress_folder, validation_key
from detexport.reference.store import EagerAccuracy, of_model, read_reference, write_reference
from detexport.runtime import BatchSession, Session
from detexport.system.digests import sha256_json
from detexport.workflows.choose_runtime import OnDevice, engine_of
from detexport.workflows.model_folder import FLOOR, REFERENCE, model_folder
from detexport.workflows.validation_data import choose_records, load_annotated

if TYPE_CHECKING:
    from detexport.workflows.loaded_model import LoadedModel

WITHOUT_ACCURACY = "--accuracy-images 0"


@dataclass(frozen=True)
class Expected:
    """The other side of a comparison.

    Args:
        reference: folder of its outputs.
        floor: its noise floor; None if it was not measured.
        name: name in reports.
    """

    reference: Path
    floor: NoiseFloor | None
    name: str


@dataclass(frozen=True)
class Comparison:
    """The inputs that both sides are run on.

    Args:
        data: the data set's folder.
        settings: limits, budgets, the numbers of images and of edge-case inputs.
        work: folder for the reference. What is computed is kept there until the validation ends.
    """

    data: Path
    settings: ParitySettings
    work: Path

    def begin(
        self, sha256: str, contract: Contract, at_work: ExitStack, **run_options: str
    ) -> tuple[Progress, Path]:
        """Return the measurements of an interrupted run, and the folder of the reference; both are temporary.

        Args:
            sha256: digest of the model or the artifact that is run.
            contract: its contract.
            at_work: closed when the validation ends.
            run_options: target and device of an artifact.
        """
        depends_on = {
            "contract": contract.to_json(),
            # The noise of an input depends on the limits, and the inputs on the numbers of images.
            "settings": repr(self.settings),
            **run_options,
        }
        folder = progress_folder(self.work / REFERENCE)
        progress = Progress(folder, validation_key(sha256, None, self.data, depends_on))
        return at_work.enter_context(progress), folder / REFERENCE

    def annotated(self, contract: Contract) -> CocoDataset | None:
        """Return the annotated images for the task metric; None if it is left out."""
        if not self.settings.accuracy_images:
            return None
        with with_skip_remedy(WITHOUT_ACCURACY):
            return select_evenly(load_annotated(self.data, contract), self.settings.accuracy_images)


def pipeline_outputs(artifact_dir: Path) -> Expected:
    """Return the reference and noise floor that the pipeline stored next to its artifacts."""
    reference, floor = model_folder(artifact_dir) / REFERENCE, model_folder(artifact_dir) / FLOOR
    return Expected(reference, read_noise_floor(floor) if floor.is_file() else None, str(reference))


def model_outputs(
    model: "LoadedModel", artifact: Artifact, comparison: Comparison, at_work: ExitStack
) -> Expected:
    """Run a model on the inputs of a reference, and measure its noise floor.

    Args:
        model: the eager model.
        artifact: the artifact to compare; its class names are used.
        comparison: inputs of both.
        at_work: closed when the validation ends.
    """
    from detexport.parity.eager_variants import measure_noise_floor
    from detexport.workflows.make_reference import make_reference

    model = replace(model, contract=named_alike(model.contract, artifact.contract))
    records = choose_records(comparison.data, model.contract, comparison.settings.images)
    progress, reference = comparison.begin(sha256_json(asdict(model.provenance)), model.contract, at_work)
    plan, annotated = comparison.settings.plan, comparison.annotated(model.contract)
    with with_skip_remedy(WITHOUT_ACCURACY):
        make_reference(model, records, plan, reference, dataset=annotated, progress=progress)
    floor = measure_noise_floor(
        model.net,
        model.contract,
        read_reference(reference),
        comparison.settings.tolerance,
        comparison.settings.noise_floor_images,
        progress=progress,
    )
    return Expected(reference, floor, model.name)


def artifact_outputs(
    other: Path, artifact: Artifact, comparison: Comparison, at_work: ExitStack, *, target: str, device: str
) -> Expected:
    """Run another artifact on the inputs of a reference.

    Args:
        other: its folder.
        artifact: the artifact to compare.
        comparison: inputs of both.
        at_work: closed when the validation ends.
        target: run the other artifact as this target does; empty: by its format's runtime.
        device: where it runs.

    Raises:
        ArtifactError: the two are of different models.
    """
    contract = read_verified(other).contract
    differences = of_model(contract).differences(of_model(artifact.contract))
    if differences:
        raise ArtifactError(
            f"{other} is not an artifact of the same model",
            got=listed(differences),
            expected="the contract of the artifact that is validated",
            remedy="compare artifacts of one model",
        )
    records = choose_records(comparison.data, contract, comparison.settings.images)
    session = OnDevice(engine_of(other, target), device).open(other)
    progress, reference = comparison.begin(
        session.artifact.sha256, contract, at_work, target=target, device=device
    )
    annotated, accuracy = comparison.annotated(contract), None
    if annotated is not None:
        with with_skip_remedy(WITHOUT_ACCURACY):
            accuracy = _measure_accuracy(session, annotated, progress)
    samples = resumed_inputs(
        records, contract, comparison.settings.plan, partial(_run, session), None, progress
    )
    write_reference(
        reference,
        # In a batch outputs depend on the other images: an artifact of batch size 1 has no such outputs.
        (sample for sample in samples if not sample[0].batch or session.artifact.batch == "any"),
        contract=contract,
        environment={"artifact": session.artifact.sha256},
        accuracy=accuracy,
    )
    return Expected(reference, None, str(other))


def named_alike(contract: Contract, other: Contract) -> Contract:
    """Return a contract with the other's names where their numbers are equal; outputs do not change."""
    names = {
        name: getattr(other, name)
        for name in ("class_names", "stuff_class_names", "keypoint_names")
        if len(getattr(other, name)) == len(getattr(contract, name))
    }
    return replace(contract, **names)


def _run(session: Session, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[Outputs]:
    """Run an artifact on images in one call, or one by one if its batch size is 1."""
    contract = session.artifact.contract
    if len(images) > 1 and session.artifact.batch == "any":
        raw_outputs = cast(BatchSession, session).run_batch(images, sizes)
    else:
        raw_outputs = [session(image, size) for image, size in zip(images, sizes, strict=True)]
    return [
        postprocess(outputs, image.shape[1:], size, contract)
        for outputs, image, size in zip(raw_outputs, images, sizes, strict=True)
    ]


def _measure_accuracy(session: Session, dataset: CocoDataset, progress: Progress) -> EagerAccuracy:
    evaluator = Evaluator(dataset, session.artifact.contract.oks_sigmas)
    ids = tuple(image.image_id for image in dataset.images)
    records = records_of(dataset, ids)
    evaluation = evaluator.summarize(evaluate_images(OneSession(session), records, evaluator, progress))
    return EagerAccuracy(evaluation.metrics, evaluation.image_ids, pack_tallies(evaluation.tallies))
