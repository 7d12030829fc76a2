"""Everything that a model gives, judged against the annotations of a split."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from detexport.contract import Contract
from detexport.data.coco import AnnotationKind, CocoDataset, CocoRecord
from detexport.errors import DataError
from detexport.metrics.average_precision import coco_ap
from detexport.metrics.panoptic_quality import PanopticQuality
from detexport.metrics.pixel_iou import PixelIou

FIELDS = {
    "pred_boxes": "bbox",
    "pred_masks": "segm",
    "pred_keypoints": "keypoints",
    "proposal_boxes": "proposals",
}
"""What is judged by which kind of average precision, proposals by their recall."""

HEADLINES = ("bbox/AP", "segm/AP", "keypoints/AP", "proposals/AR100", "panoptic/PQ", "sem_seg/mIoU")
"""Of each kind the metric that stands for it."""


def annotation_kind(contract: Contract) -> AnnotationKind:
    """The annotations that a model of this contract is judged by."""
    return "keypoints" if "pred_keypoints" in contract.output_names else "instances"


def judge(
    predictions: Iterable[tuple[CocoRecord, dict[str, Any]]],
    dataset: CocoDataset,
    keypoint_sigmas: Sequence[float] = (),
) -> dict[str, float]:
    """Judge the outputs on images of a split; the images that are given are those that count.

    Args:
        predictions: an image's record and its outputs, see ``detexport.postprocess``, in the image's frame;
            read once.
        dataset: with keypoints, if there are any in the outputs.
        keypoint_sigmas: see ``coco_ap``.

    Returns:
        AP of boxes, masks and keypoints and recall of proposals, see ``coco_ap``; the quality of segments,
        see ``PanopticQuality``, or where nothing else is given the IoU of the pixels' classes.

    Raises:
        DataError: there is no image, or no annotations of what is to be judged.
    """
    panoptic: PanopticQuality | None = None
    pixels: PixelIou | None = None
    image_ids: list[int] = []

    def found() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal panoptic, pixels
        for record, outputs in predictions:
            image_ids.append(record.image_id)
            if "panoptic_seg" in outputs:
                panoptic = panoptic or PanopticQuality(dataset.panoptic_file, dataset.category_ids)
                panoptic.add(record.image_id, outputs["panoptic_seg"], outputs["segments_info"])
            elif "sem_seg" in outputs:
                pixels = pixels or PixelIou()
                pixels.add(record, outputs["sem_seg"])
            yield record.image_id, outputs

    outputs = found()
    first = next(outputs, None)
    if first is None:
        raise DataError(
            f"{dataset.annotation_file} has no image to evaluate on", expected="at least one image"
        )
    iou_types = [iou_type for field, iou_type in FIELDS.items() if field in first[1]]
    metrics: dict[str, float] = {}
    rest = chain([first], outputs)
    if iou_types:
        annotations, ids = dataset.annotation_file, dataset.category_ids
        # The list of ids is whole by the time that it is looked at: when all predictions were read.
        metrics |= coco_ap(annotations, rest, ids, iou_types, keypoint_sigmas, image_ids)
    for _ in rest:  # where nothing was read for AP
        pass
    for gathered in (panoptic, pixels):
        metrics |= gathered.result() if gathered else {}
    return metrics
