"""Running a model over a split, to judge what it gives."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.data.coco import CocoDataset, CocoRecord, read_record
from detexport.data.resize import resize_image, resized_size
from detexport.errors import DataError
from detexport.metrics.evaluate import Evaluation, judge

ROWS = ("instances", "proposals")
BOXES = ("pred_boxes", "proposal_boxes")


def evaluate(model: Any, dataset: CocoDataset, keypoint_sigmas: Sequence[float] = ()) -> dict[str, float]:
    """The metrics of ``evaluate_model``."""
    return evaluate_model(model, dataset, keypoint_sigmas).metrics


def evaluate_model(model: Any, dataset: CocoDataset, keypoint_sigmas: Sequence[float] = ()) -> Evaluation:
    """Evaluate everything that a model gives, over all images of a split: see ``judge``.

    Args:
        model: put into evaluation mode.
        dataset: with keypoints, if the model gives any.
        keypoint_sigmas: see ``coco_ap``.

    Raises:
        DataError: the data set has no image, or no annotations of what the model gives.
    """
    model.eval()
    # Closed at an error, too: the bar ends its line before the error is told.
    with closing(predictions(model, dataset)) as found:
        return judge(found, dataset, keypoint_sigmas)


def spread(dataset: CocoDataset, number: int) -> CocoDataset:
    """``number`` images at even distances, or all if there are fewer."""
    images = dataset.images
    number = min(number, len(images))
    chosen = tuple(images[index * len(images) // number] for index in range(number))
    return replace(dataset, images=chosen)


def predictions(model: Any, dataset: CocoDataset) -> Generator[tuple[CocoRecord, dict[str, Any]]]:
    """Outputs for every image, resized as the model asks, one at a time.

    Yields:
        the image and what ``predict_record`` gives.
    """
    for record in tqdm(dataset.images, desc="evaluate", unit="image"):
        yield record, predict_record(model, record)


def predict_record(model: Any, record: CocoRecord) -> dict[str, Any]:
    """Outputs for an image, resized as the model asks.

    Returns:
        as numpy arrays in px of the image as it was read, the fields of ``instances`` or ``proposals``,
        ``sem_seg``, and ``panoptic_seg`` with ``segments_info``, where the model gives them.

    Raises:
        DataError: the image is not of its record's size; or a panoptic map comes without ``segments_info``:
            what its numbers mean is not known here.
    """
    import torch  # here: choosing the images of a comparison does without

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
                expected="a dict a segment",
                remedy="make them by detexport.data.panoptic.segments_of_ids",
            )
        outputs["panoptic_seg"], outputs["segments_info"] = segment_map.cpu().numpy(), segments
    return outputs
