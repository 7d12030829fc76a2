"""The ground truth of an image in the form of a model's outputs, so that it is drawn as they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from detexport.contract import Contract
from detexport.data.coco import CocoDataset, CocoRecord, load_coco, read_sem_seg, records_of
from detexport.data.segmentation import annotation_mask
from detexport.errors import DataError
from detexport.metrics.evaluate import annotation_kind
from detexport.metrics.panoptic_quality import PanopticQuality
from detexport.metrics.pixel_iou import UNLABELLED
from detexport.outputs import Outputs
from detexport.reference.store import NO_IMAGE, SampleMeta
from detexport.report.number_format import plural


@dataclass
class GroundTruth:
    """The annotations of the inputs of a model's reference.

    Args:
        data_dir: the data set; None if the report is written without one.
        categories: names of the data set's classes to keep; None keeps all.
        contract: the model's.
        faults: why annotations cannot be drawn: each reason once, in the order of the inputs.
    """

    data_dir: Path | None
    categories: Sequence[str] | None
    contract: Contract
    faults: dict[str, None] = field(default_factory=dict)

    def of(self, meta: SampleMeta, expected: Outputs) -> tuple[Outputs | None, str]:
        """Return the annotations of an input as outputs, and what there is to see.

        Args:
            meta: the input.
            expected: the eager model's outputs; the annotations are of the same kinds.
        """
        if meta.image_id == NO_IMAGE:
            return None, "none: this input was made, not annotated"
        try:
            (record,) = records_of(self._dataset, (meta.image_id,))
            return self._read(record, meta.output_size, expected)
        except DataError as error:
            self.faults[str(error)] = None
            return None, "not readable: see the reason above"

    def _read(self, record: CocoRecord, size: tuple[int, int], expected: Outputs) -> tuple[Outputs, str]:
        truth: Outputs = {}
        notes = []
        if "scores" in expected or "proposal_boxes" in expected:
            truth |= annotated_objects(record, size, self.contract.row_names)
            notes.append(plural(len(truth["scores"]), "annotated object"))
        if "panoptic_seg" in expected:
            truth |= annotated_segments(self._panoptic, record, size)
            notes.append(plural(len(truth["segments_info"]), "segment"))
        elif "sem_seg" in expected:
            truth |= annotated_pixels(record, size)
            notes.append("the annotated class of each pixel")
        return truth, ", ".join(notes)

    @cached_property
    def _dataset(self) -> CocoDataset:
        if self.data_dir is None or not self.data_dir.is_dir():
            raise DataError(
                "the ground truth cannot be drawn",
                got=f"no folder {self.data_dir}" if self.data_dir else "no data set",
                expected="the data set of the reference",
                remedy="run the stage `prepare_data`, then `report` again",
            )
        return load_coco(self.data_dir, "val", self.categories, annotation_kind(self.contract))

    @cached_property
    def _panoptic(self) -> PanopticQuality:
        return PanopticQuality(self._dataset.panoptic_file, self._dataset.category_ids)


def annotated_objects(record: CocoRecord, size: tuple[int, int], fields: Sequence[str]) -> Outputs:
    """Return an image's annotated objects as detections with scores of 1; crowds are left out.

    Args:
        record: the image with its annotations.
        size: height and width to which boxes, masks and keypoints are scaled.
        fields: names of the model's outputs: masks and keypoints are returned if they are among them.
            An object without a mask has an empty one. Keypoints that are not labelled are NaN.
    """
    objects = [one for one in record.annotations if not one.get("iscrowd")]
    height, width = size
    factors = np.array([width / record.width, height / record.height], np.float32)
    boxes = np.array([one["bbox"] for one in objects], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    truth: Outputs = {
        "pred_boxes": boxes * np.tile(factors, 2),
        "scores": np.ones(len(objects), np.float32),
        "pred_classes": np.array([one["category_id"] for one in objects], np.int64),
    }
    if "pred_masks" in fields:
        sides = record.height, record.width
        masks = [_resized(annotation_mask(one.get("segmentation"), *sides), size) for one in objects]
        truth["pred_masks"] = np.array(masks, bool).reshape(-1, *size)
    if "pred_keypoints" in fields:
        rows = [one.get("keypoints") or [] for one in objects]
        longest = max(map(len, rows), default=0)
        padded = [[*row, *[0.0] * (longest - len(row))] for row in rows]
        points = np.array(padded, np.float32).reshape(len(objects), longest // 3, 3)
        points[..., :2] *= factors
        points[points[..., 2] == 0] = np.nan
        truth["pred_keypoints"] = points
    return truth


def annotated_segments(annotations: PanopticQuality, record: CocoRecord, size: tuple[int, int]) -> Outputs:
    """Return an image's annotated segments as a panoptic segmentation.

    Args:
        annotations: the panoptic annotations of the data set.
        record: the image.
        size: height and width of the segmentation.

    Raises:
        DataError: the image has no panoptic annotations, or they cannot be read.
    """
    segments, category_of = annotations.annotated_segments(record.image_id, (record.height, record.width))
    things = len(annotations.thing_ids)
    index_of = {category: index for index, category in enumerate(annotations.categories)}
    infos = []
    for id, category in category_of.items():
        index = index_of[category]
        is_thing = index < things
        infos.append(
            {"id": id, "isthing": is_thing, "category_id": index if is_thing else index - things + 1}
        )
    return {"panoptic_seg": _resized(segments.astype(np.int32), size), "segments_info": infos}


def annotated_pixels(record: CocoRecord, size: tuple[int, int]) -> Outputs:
    """Return the annotated class of each pixel, as one segment of stuff for each class.

    Unlike logits, segments leave out unlabelled pixels.

    Args:
        record: the image.
        size: height and width of the segmentation.

    Raises:
        DataError: the image has no semantic segmentation, or it cannot be read.
    """
    labels = _resized(read_sem_seg(record).astype(np.int32), size)
    present = [label for label in np.unique(labels).tolist() if label != UNLABELLED]
    return {
        "panoptic_seg": labels + 1,
        "segments_info": [{"id": label + 1, "isthing": False, "category_id": label} for label in present],
    }


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) values of another size; each is that of the nearest pixel."""
    if values.shape == size:
        return values
    resized: np.ndarray = np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST))
    return resized
