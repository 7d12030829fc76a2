"""Make a reference: a model's outputs on images of the data set and on edge-case inputs, stored once."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detexport.data.coco import CocoDataset, CocoRecord, load_coco, require_images
from detexport.engine.evaluation import predict_record, select_evenly
from detexport.metrics.evaluate import Evaluator, ImageEvaluation, annotation_kind, with_skip_remedy
from detexport.metrics.tallies import pack_tallies
from detexport.reference.eager_samples import eager_samples
from detexport.reference.input_kinds import Plan
from detexport.reference.resume import Progress
from detexport.reference.store import EagerAccuracy, write_reference
from detexport.system.progress import progress_bar
from detexport.system.versions import package_versions
from detexport.workflows.loaded_model import LoadedModel
from detexport.workflows.validation_data import SPLIT


def make_reference(
    model: LoadedModel,
    records: Sequence[CocoRecord],
    plan: Plan,
    save_dir: Path,
    *,
    dataset: CocoDataset | None = None,
    progress: Progress | None = None,
) -> None:
    """Run the eager model on the inputs of a plan, and write its outputs.

    Args:
        model: the eager model.
        records: images of the data set, at least one.
        plan: see ``Plan``.
        save_dir: folder of the reference; replaced if it exists.
        dataset: annotated images for the task metric; None leaves it out.
        progress: outputs of an interrupted run, which are not repeated.

    Raises:
        DataError: the model's outputs cannot be a reference, or the data set lacks the annotations that the
            model is evaluated by.
    """
    accuracy = measure_eager_accuracy(model, dataset, progress) if dataset else None
    write_reference(
        save_dir,
        eager_samples(model.net, model.contract, records, plan, progress),
        contract=model.contract,
        environment={"threads": torch.get_num_threads(), "dtype": "float32", "versions": package_versions()},
        accuracy=accuracy,
    )


def make_reference_on(
    model: LoadedModel,
    data: Path,
    plan: Plan,
    save_dir: Path,
    *,
    images: int,
    accuracy_images: int,
    categories: Sequence[str] | None = None,
) -> None:
    """Make the reference of the pipeline on images of a data set's validation split.

    Args:
        model: the eager model.
        data: the data set.
        plan: see ``Plan``.
        save_dir: folder of the reference; replaced if it exists.
        images: number of images that inputs are made of.
        accuracy_images: number of annotated images that the task metric is measured on; 0 leaves it out.
        categories: names of the data set's classes to keep; none keeps all.

    Raises:
        DataError: there is no image, or see ``make_reference``.
    """
    # One thread: the order of sums, and with it the last bits, does not depend on the number of cores.
    torch.set_num_threads(1)
    dataset = require_images(load_coco(data, SPLIT, categories))
    annotated = None
    with with_skip_remedy("-S parity.accuracy_images=0"):
        if accuracy_images:
            kind = annotation_kind(model.contract)
            annotated = select_evenly(load_coco(data, SPLIT, categories, kind), accuracy_images)
        make_reference(model, select_evenly(dataset, images).images, plan, save_dir, dataset=annotated)


def measure_eager_accuracy(
    model: LoadedModel, dataset: CocoDataset, progress: Progress | None = None
) -> EagerAccuracy:
    """Measure the task metric of the eager model on all images of a split.

    Args:
        model: the eager model.
        dataset: the split, with keypoints if the model has them.
        progress: evaluations of an interrupted run, which are not repeated.

    Raises:
        DataError: the data set has no image, or lacks the annotations that the model is evaluated by.
    """
    evaluator, progress = Evaluator(dataset, model.contract.oks_sigmas), progress or Progress()

    def evaluate_image(record: CocoRecord) -> ImageEvaluation:
        return evaluator.evaluate_image(record, predict_record(model.net, record))

    def evaluations() -> Iterator[Any]:
        for record in progress_bar(dataset.images, desc="task metric of the model", unit="image"):
            yield progress.once(
                f"task metric {record.image_id!r}", ImageEvaluation, partial(evaluate_image, record)
            )

    evaluation = evaluator.summarize(evaluations())
    return EagerAccuracy(evaluation.metrics, evaluation.image_ids, pack_tallies(evaluation.tallies))
