"""Evaluation of a model on a split."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.data.coco import CocoDataset, CocoRecord, read_record
from detexport.data.resize import resize_image, resized_size
from detexport.errors import DataError
from detexport.metrics.evaluate import Evaluation, Evaluator, evaluate_predictions

ROWS = ("instances", "proposals")
BOXES = ("pred_boxes", "proposal_boxes")


Gather = Callable[[Any], list[Any]]
"""Collects a value of each process, by rank."""


def evaluate(model: Any, dataset: CocoDataset, keypoint_sigmas: Sequence[float] = ()) -> dict[str, float]:
    """Return the metrics of ``evaluate_model``."""
    return evaluate_model(model, dataset, keypoint_sigmas).metrics


def evaluate_in_shares(
    model: Any,
    dataset: CocoDataset,
    keypoint_sigmas: Sequence[float],
    gather: Gather,
    rank: int,
    world_size: int,
) -> dict[str, float]:
    """Return the metrics of ``evaluate``, computed by several processes that each take a share of the images.

    Args:
        model: see ``evaluate_model``.
        dataset: see ``evaluate_model``.
        keypoint_sigmas: see ``evaluate_model``.
        gather: collects the results of all processes.
        rank: index of this process.
        world_size: number of processes.
    """
    evaluator = Evaluator(dataset, keypoint_sigmas)
    model.eval()
    share = replace(dataset, images=dataset.images[rank::world_size])
    with closing(predictions(model, share)) as outputs:
        findings = [evaluator.evaluate_image(record, output) for record, output in outputs]
    return evaluator.summarize(finding for part in gather(findings) for finding in part).metrics


def evaluate_model(model: Any, dataset: CocoDataset, keypoint_sigmas: Sequence[float] = ()) -> Evaluation:
    """Evaluate all outputs of a model on all images of a split: see ``evaluate_predictions``.

    Args:
        model: is set to evaluation mode.
        dataset: with keypoint annotations if the model predicts keypoints.
        keypoint_sigmas: see ``coco_ap``.

    Raises:
        DataError: the data set has no image, or lacks annotations for an output of the model.
    """
    model.eval()
    # Closed on an error, too, so that the progress bar ends its line before the error is printed.
    with closing(predictions(model, dataset)) as outputs:
        return evaluate_predictions(outputs, dataset, keypoint_sigmas)


def select_evenly(dataset: CocoDataset, number: int) -> CocoDataset:
    """Select ``number`` evenly spaced images, or all if there are fewer."""
    images = dataset.images
    number = min(number, len(images))
    chosen = tuple(images[index * len(images) // number] for index in range(number))
    return replace(dataset, images=chosen)


def predictions(model: Any, dataset: CocoDataset) -> Generator[tuple[CocoRecord, dict[str, Any]]]:
    """Run the model on each image, resized by the rule of the model.

    Yields:
        the image's record and the result of ``predict_record``.
    """
    for record in tqdm(dataset.images, desc="evaluate", unit="image"):
        yield record, predict_record(model, record)


def predict_record(model: Any, record: CocoRecord) -> dict[str, Any]:
    """Run the model on one image, resized by the rule of the model.

    Returns:
        numpy arrays in px of the original image: the fields of ``instances`` or ``proposals``, ``sem_seg``,
        and ``panoptic_seg`` with ``segments_info``, as far as the model outputs them.

    Raises:
        DataError: the size of the image is not that of its record; or a panoptic map has no
            ``segments_info``, without which its ids have no meaning.
    """
    import torch  # here, since ``select_evenly`` is used without torch

    image = read_record(record, model.input_format)
    size = resized_size(record.height, record.width, model.resize)
    example = {
        "image": torch.from_numpy(resize_image(image, size)),
        "height": record.height,
        "width": record.width,
    }
    with torch.no_grad():
        return _as_arrays(model([example])[0])


def _as_arrays(result: dict[str, Any]) -> dict[str, np.ndarray | Any]:
    outputs: dict[str, Any] = {}
    for rows in ROWS:
        if rows in result:
            fields = result[rows].to("cpu").get_fields()
            outputs |= {
                name: (value.tensor if name in BOXES else value).numpy() for name, value in fields.items()
            }
    if "sem_seg" in result:
        outputs["sem_seg"] = result["sem_seg"].cpu().numpy()
    if "panoptic_seg" in result:
        segment_map, segments = result["panoptic_seg"]
        if segments is None:
            raise DataError(
                "a panoptic map without segments_info cannot be evaluated",
                got="segments_info: None",
                expected="one dict per segment",
                remedy="compute it with detexport.data.panoptic.segments_of_ids",
            )
        outputs["panoptic_seg"], outputs["segments_info"] = segment_map.cpu().numpy(), segments
    return outputs
