"""Everything that a model gives, judged against the annotations of a split."""

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
"""What is judged by which kind of average precision, proposals by their recall."""

HEADLINES = tuple(KINDS)
"""Of each kind the metric that stands for it."""


ANNOTATIONS = {
    "pred_masks": ("segmentation", "segmentations, as COCO's instances have them"),
    "pred_keypoints": ("keypoints", "COCO's keypoint annotations"),
}
"""What is judged by a key of each annotation that COCO's boxes do without."""


def annotation_kind(contract: Contract) -> AnnotationKind:
    """The annotations that a model of this contract is judged by."""
    return "keypoints" if "pred_keypoints" in contract.output_names else "instances"


@contextmanager
def or_without(switch: str) -> Iterator[None]:
    """Name the switch that leaves the task metric out where the data lack annotations for it.

    Args:
        switch: as the user writes it.

    Raises:
        MissingAnnotationsError: what was raised in the block, with that remedy, too.
    """
    try:
        yield
    except MissingAnnotationsError as error:
        raise MissingAnnotationsError(f"{error}, or leave the task metric out: {switch}") from error


@dataclass(frozen=True)
class ImageEvaluation:
    """What was found on one image, in plain values that JSON takes; masks are compressed.

    Args:
        image_id: COCO's.
        detections: by kind, see ``coco_detections``.
        segments: of a panoptic segmentation, each category with its ``Tally`` in numbers; none where there is
            no such output.
        pixels: a semantic segmentation's, see ``PixelIou.look``; likewise.
    """

    image_id: ImageId
    detections: dict[str, list[dict[str, Any]]]
    segments: list[tuple[Any, ...]] | None = None
    pixels: list[tuple[int, int, int]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a model reached.

    Args:
        metrics: see ``judge``.
        image_ids: of the images that count, ascending.
        tallies: what each image adds, in this order, by the headline metric.
    """

    metrics: dict[str, float]
    image_ids: tuple[ImageId, ...]
    tallies: dict[str, Tallies]


class Evaluator:
    """Judges the outputs on images of a split, one after another; those that are given are those that count.

    Args:
        dataset: with keypoints, if there are any in the outputs.
        keypoint_sigmas: see ``coco_ap``.
    """

    def __init__(self, dataset: CocoDataset, keypoint_sigmas: Sequence[float] = ()) -> None:
        self.dataset = dataset
        self.keypoint_sigmas = keypoint_sigmas

    @cached_property
    def _panoptic(self) -> PanopticQuality:
        return PanopticQuality(self.dataset.panoptic_file, self.dataset.category_ids)

    def look(self, record: CocoRecord, outputs: dict[str, Any]) -> ImageEvaluation:
        """Keep of an image's outputs what is judged.

        Args:
            record: the image.
            outputs: see ``detexport.processing.postprocess``, in the image's frame.

        Raises:
            DataError: there are no annotations of what is to be judged.
        """
        _check_annotations(record, outputs)
        detections = {
            iou_type: coco_detections(record.image_id, outputs, self.dataset.category_ids, iou_type)
            for field, iou_type in FIELDS.items()
            if field in outputs
        }
        if "panoptic_seg" in outputs:
            found = outputs["panoptic_seg"], outputs["segments_info"]
            tallies = self._panoptic.look(record.image_id, *found)
            segments = [(category, *astuple(tally)) for category, tally in tallies.items()]
            return ImageEvaluation(record.image_id, detections, segments=segments)
        if "sem_seg" in outputs:
            return ImageEvaluation(
                record.image_id, detections, pixels=PixelIou.look(record, outputs["sem_seg"])
            )
        return ImageEvaluation(record.image_id, detections)

    def conclude(self, findings: Iterable[ImageEvaluation]) -> Evaluation:
        """Evaluate all that was found.

        Raises:
            DataError: there is no image, or the annotations are not of these images.
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
                self._panoptic.count({category: Tally(*tally) for category, *tally in rows})
            metrics |= self._panoptic.result()
            tallies["panoptic/PQ"] = Segments(*_by_class(segments, len(fields(Tally))))
        if ordered[0].pixels is not None:
            of_classes, pixels = PixelIou(), [finding.pixels or [] for finding in ordered]
            for found in pixels:
                of_classes.count(found)
            metrics |= of_classes.result()
            tallies["sem_seg/mIoU"] = Pixels(*_by_class(pixels, 2))
        return Evaluation(metrics, tuple(image_ids), tallies)


def accuracy_deltas(eager: Mapping[str, float], reached: Mapping[str, float]) -> dict[str, float]:
    """The headline metrics less the eager model's; one that was not reached counts as 0."""
    return {name: reached.get(name, 0.0) - eager[name] for name in HEADLINES if name in eager}


def judge(
    predictions: Iterable[tuple[CocoRecord, dict[str, Any]]],
    dataset: CocoDataset,
    keypoint_sigmas: Sequence[float] = (),
) -> Evaluation:
    """Evaluate the outputs on images of a split; the images that are given are those that count.

    Args:
        predictions: an image's record and its outputs in the image's frame (``detexport.outputs``);
            read once.
        dataset: with keypoints, if there are any in the outputs.
        keypoint_sigmas: see ``coco_ap``.

    Returns:
        with AP of boxes, masks and keypoints and recall of proposals, see ``coco_ap``; the quality of
        segments, see ``PanopticQuality``, or where nothing else is given the IoU of the pixels' classes.

    Raises:
        DataError: there is no image, or no annotations of what is to be judged.
    """
    one = Evaluator(dataset, keypoint_sigmas)
    return one.conclude(one.look(record, outputs) for record, outputs in predictions)


def _check_annotations(record: CocoRecord, outputs: dict[str, Any]) -> None:
    """Notice on the first image, not after the last one, that there is nothing to judge by."""
    for field, (key, expected) in ANNOTATIONS.items():
        without = [annotation["id"] for annotation in record.annotations if not annotation.get(key)]
        if field in outputs and without:
            raise MissingAnnotationsError(
                f"the data set lacks annotations that {field} are judged by",
                got=f"no {key} in annotation {without[0]} of image {record.image_id}",
                expected=expected,
                remedy=f"choose other data, or a model without {field}",
            )


def _by_class(of_images: Sequence[Sequence[Any]], columns: int) -> np.ndarray:
    """Rows of a class and its numbers, on each image, as (columns, K classes, N images)."""
    classes = sorted({row[0] for rows in of_images for row in rows})
    array = np.zeros((columns, len(classes), len(of_images)))
    for image, rows in enumerate(of_images):
        for label, *numbers in rows:
            array[:, classes.index(label), image] = numbers
    return array
