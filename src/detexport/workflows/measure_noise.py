"""Measure the noise floor: the errors between the eager model's own runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from detexport.data.coco import load_coco, records_of
from detexport.metrics.evaluate import accuracy_deltas, annotation_kind
from detexport.parity.compare import Tolerance
from detexport.parity.eager_variants import measure_noise_floor
from detexport.parity.noise_floor import NoiseFloor
from detexport.reference.store import EagerAccuracy, read_reference
from detexport.workflows.loaded_model import LoadedModel
from detexport.workflows.make_reference import measure_eager_accuracy


def measure_noise(
    model: LoadedModel,
    reference: Path,
    data: Path,
    *,
    tolerance: Tolerance,
    images: int,
    categories: Sequence[str] | None = None,
    tf32_budget: float | None = None,
) -> NoiseFloor:
    """Run variants of the eager model, and measure their errors against its reference.

    Args:
        model: the eager model.
        reference: folder of its outputs.
        data: the data set, on which TF32 is evaluated if the reference has metrics.
        tolerance: see ``measure_noise_floor``.
        images: number of samples of the reference that the variants are run on.
        categories: names of the data set's classes to keep; none keeps all.
        tf32_budget: largest delta of a task metric with TF32.

    Raises:
        DataError: the reference has no sample of one image.
    """
    torch.set_num_threads(1)  # as the reference was made
    expected = read_reference(reference)
    accuracy = expected.accuracy

    def evaluate(other: nn.Module) -> dict[str, float]:
        assert accuracy is not None
        return _differences(replace(model, net=other), accuracy, data, categories)

    return measure_noise_floor(
        model.net,
        model.contract,
        expected,
        tolerance,
        images,
        evaluate=evaluate if accuracy else None,
        budget=tf32_budget,
    )


def _differences(
    model: LoadedModel, accuracy: EagerAccuracy, data: Path, categories: Sequence[str] | None
) -> dict[str, float]:
    """Return the deltas of a model's task metrics to the reference's, on the same images."""
    dataset = load_coco(data, "val", categories, annotation_kind(model.contract))
    dataset = replace(dataset, images=tuple(records_of(dataset, accuracy.image_ids)))
    return accuracy_deltas(accuracy.metrics, measure_eager_accuracy(model, dataset).metrics)
