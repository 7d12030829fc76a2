"""Evaluation of all outputs of a model against the annotations of a split."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from detexport.contract import Contract
from detexport.data.annotations import ImageId, id_order
from detexport.data.coco import AnnotationKind, CocoDataset, CocoRecord
from detexport.errors import DataError, MissingAnnotationsError
from detexport.metrics.average_precision import coco_detections, evaluate_detections
from detexport.metrics.panoptic_quality import PanopticQuality, Tally
from detexport.metrics.pixel_iou import PixelIou
from detexport.metrics.tallies import KINDS, Pixels, Segments, Tallies

FIELDS = {
    "pred_boxes": "bbox",
    "pred_masks": "segm",
    "pred_keypoints": "keypoints",
    "proposal_boxes": "proposals",
}
"""The kind of COCO evaluation of each output field; proposals are evaluated by recall."""

HEADLINES = tuple(KINDS)
"""The task metric of each kind."""


ANNOTATIONS = {
    "pred_masks": ("segmentation", "segmentations, as COCO's instances have them"),
    "pred_keypoints": ("keypoints", "COCO's keypoint annotations"),
}
"""The key that each annotation must have to evaluate an output field, and its description."""


def annotation_kind(contract: Contract) -> AnnotationKind:
    """Return the kind of annotations that the evaluation of a model with this contract needs."""
    return "keypoints" if "pred_keypoints" in contract.output_names else "instances"


@contextmanager
def with_skip_remedy(switch: str) -> Iterator[None]:
    """Add the switch that leaves the task metric out to the remedy of a MissingAnnotationsError.

    Args:
        switch: as the user writes it.

    Raises:
        MissingAnnotationsError: the error raised in the block, with the switch as a second remedy.
    """
    try:
        yield
    except MissingAnnotationsError as error:
        raise MissingAnnotationsError(f"{error}, or leave the task metric out: {switch}") from error


@dataclass(frozen=True)
class ImageEvaluation:
    """Evaluated outputs of one image, in plain values that JSON can store; masks are compressed.

    Args:
        image_id: COCO's image id.
        detections: by kind, see ``coco_detections``.
        segments: of a panoptic segmentation: each category, followed by the fields of its ``Tally``; None
            without such an output.
        pixels: of a semantic segmentation, see ``PixelIou.evaluate_image``; None without such an output.
    """

    image_id: ImageId
    detections: dict[str, list[dict[str, Any]]]
    segments: list[tuple[Any, ...]] | None = None
    pixels: list[tuple[int, int, int]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model.

    Args:
        metrics: see ``evaluate_predictions``.
        image_ids: of the evaluated images, ascending.
        tallies: by task metric, the contribution of each image, in the order of ``image_ids``.
    """

    metrics: dict[str, float]
    image_ids: tuple[ImageId, ...]
    tallies: dict[str, Tallies]


class Evaluator:
    """Evaluation of outputs on images of a split, image by image; only images that are passed count.

    Args:
        dataset: with keypoint annotations if the outputs have keypoints.
        keypoint_sigmas: see ``coco_ap``.
    """

    def __init__(self, dataset: CocoDataset, keypoint_sigmas: Sequence[float] = ()) -> None:
        self.dataset = dataset
        self.keypoint_sigmas = keypoint_sigmas

    @cached_property
    def _panoptic(self) -> PanopticQuality:
        return PanopticQuality(self.dataset.panoptic_file, self.dataset.category_ids)

    def evaluate_image(self, record: CocoRecord, outputs: dict[str, Any]) -> ImageEvaluation:
        """Reduce the outputs of one image to the values that the metrics need.

        Args:
            record: the image.
            outputs: see ``detexport.processing.postprocess``, in the image's frame.

        Raises:
            DataError: the annotations for one of the outputs are missing.
        """
        _check_annotations(record, outputs)
        detections = {
            iou_type: coco_detections(record.image_id, outputs, self.dataset.category_ids, iou_type)
            for field, iou_type in FIELDS.items()
            if field in outputs
        }
        if "panoptic_seg" in outputs:
            tallies = self._panoptic.evaluate_image(
                record.image_id, outputs["panoptic_seg"], outputs["segments_info"]
            )
            segments = [(category, *astuple(tally)) for category, tally in tallies.items()]
            return ImageEvaluation(record.image_id, detections, segments=segments)
        if "sem_seg" in outputs:
            return ImageEvaluation(
                record.image_id, detections, pixels=PixelIou.evaluate_image(record, outputs["sem_seg"])
            )
        return ImageEvaluation(record.image_id, detections)

    def summarize(self, findings: Iterable[ImageEvaluation]) -> Evaluation:
        """Compute the metrics from the results of all images.

        Raises:
            DataError: there is no image, or the annotation file lacks one of the images.
        """
        by_id = {finding.image_id: finding for finding in findings}
        if not by_id:
            raise DataError(
                f"{self.dataset.annotation_file} has no image to evaluate on",
                expected="at least one image",
                remedy="choose other data",
            )
        image_ids = sorted(by_id, key=id_order)
        ordered = [by_id[image_id] for image_id in image_ids]
        metrics: dict[str, float] = {}
        tallies: dict[str, Tallies] = {}
        kinds = ordered[0].detections.keys()
        if kinds:
            metrics, tallies = evaluate_detections(
                self.dataset.annotation_file,
                {kind: [one for finding in ordered for one in finding.detections[kind]] for kind in kinds},
                self.dataset.category_ids,
                self.keypoint_sigmas,
                image_ids,
                mentioned=image_ids,
            )
        if ordered[0].segments is not None:
            segments = [finding.segments or [] for finding in ordered]
            for rows in segments:
                self._panoptic.accumulate({category: Tally(*tally) for category, *tally in rows})
            metrics |= self._panoptic.result()
            index_of = {category: index for index, category in enumerate(self._panoptic.categories)}
            by_index = [[(index_of[category], *tally) for category, *tally in rows] for rows in segments]
            tallies["panoptic/PQ"] = Segments(*_by_class(by_index, len(fields(Tally)), len(index_of)))
        if ordered[0].pixels is not None:
            pixel_iou, pixels = PixelIou(), [finding.pixels or [] for finding in ordered]
            for counts in pixels:
                pixel_iou.accumulate(counts)
            metrics |= pixel_iou.result()
            labels = [label for counts in pixels for label, *_ in counts]
            tallies["sem_seg/mIoU"] = Pixels(*_by_class(pixels, 2, 1 + max(labels, default=-1)))
        return Evaluation(metrics, tuple(image_ids), tallies)


def accuracy_deltas(eager: Mapping[str, float], reached: Mapping[str, float]) -> dict[str, float]:
    """Return the task metrics minus those of the eager model; a missing metric counts as 0."""
    return {name: reached.get(name, 0.0) - eager[name] for name in HEADLINES if name in eager}


def evaluate_predictions(
    predictions: Iterable[tuple[CocoRecord, dict[str, Any]]],
    dataset: CocoDataset,
    keypoint_sigmas: Sequence[float] = (),
) -> Evaluation:
    """Evaluate outputs on images of a split; only images in ``predictions`` count.

    Args:
        predictions: records of images with their outputs in the image's frame (``detexport.outputs``); read
            once.
        dataset: with keypoint annotations if the outputs have keypoints.
        keypoint_sigmas: see ``coco_ap``.

    Returns:
        metrics of each output: AP of boxes, masks and keypoints and recall of proposals, see ``coco_ap``;
        panoptic quality, see ``PanopticQuality``, or else the mean IoU of a semantic segmentation.

    Raises:
        DataError: there is no image, or the annotations for one of the outputs are missing.
    """
    evaluator = Evaluator(dataset, keypoint_sigmas)
    return evaluator.summarize(evaluator.evaluate_image(record, outputs) for record, outputs in predictions)


def _check_annotations(record: CocoRecord, outputs: dict[str, Any]) -> None:
    """Raise MissingAnnotationsError on the first image, not after the last one."""
    for field, (key, expected) in ANNOTATIONS.items():
        without = [annotation["id"] for annotation in record.annotations if not annotation.get(key)]
        if field in outputs and without:
            raise MissingAnnotationsError(
                f"the data set lacks annotations to evaluate {field}",
                got=f"no {key} in annotation {without[0]} of image {record.image_id}",
                expected=expected,
                remedy=f"choose other data, or a model without {field}",
            )


def _by_class(of_images: Sequence[Sequence[Any]], columns: int, classes: int) -> np.ndarray:
    """Return rows (class index, number, ...) of each image as an array (columns, K classes, N images)."""
    array = np.zeros((columns, classes, len(of_images)))
    for image, rows in enumerate(of_images):
        for index, *numbers in rows:
            array[:, index, image] = numbers
    return array
