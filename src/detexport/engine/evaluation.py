"""Average precision as COCO defines it, by pycocotools."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detexport.data.coco import read_annotations
from detexport.errors import DataError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""COCO's first six numbers: the mean over IoU 0.50 to 0.95, two single IoUs, and three ranges of area."""


def coco_ap(
    annotations: Path,
    predictions: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    category_ids: Sequence[int],
    iou_types: Sequence[str] = ("bbox", "segm"),
) -> dict[str, float]:
    """Average precision of detections on all images of an annotation file.

    Args:
        annotations: COCO's instance annotation file; an image that ``predictions`` does not mention counts as
            one on which nothing was found.
        predictions: image id and ``pred_boxes`` (R, 4) XYXY in px of the annotated image, ``scores`` (R,),
            ``pred_classes`` (R,) and, for ``"segm"``, ``pred_masks`` bool (R, H, W). Read once; masks are
            kept compressed.
        category_ids: COCO's category id of each class index; others are not evaluated.
        iou_types: ``"bbox"``, ``"segm"``.

    Returns:
        ``{"bbox/AP": ..., "bbox/AP50": ..., ..., "segm/APl": ...}`` in [0, 1]. A metric that is not defined,
        because no object has the asked-for area, is left out.

    Raises:
        DataError: the file is missing or is not COCO's, or lacks a category or an image.
    """
    truth = read_annotations(annotations)
    _check_known(annotations, "category ids", category_ids, truth["categories"])
    # To pycocotools a match with the annotation of id 0 is none.
    truth["annotations"] = [{**a, "id": i} for i, a in enumerate(truth["annotations"], start=1)]
    detections: dict[str, list[dict[str, Any]]] = {iou_type: [] for iou_type in iou_types}
    image_ids = []
    for image_id, outputs in predictions:
        image_ids.append(image_id)
        for iou_type in iou_types:
            detections[iou_type] += _detections(image_id, outputs, category_ids, iou_type)
    _check_known(annotations, "image ids", image_ids, truth["images"])

    metrics: dict[str, float] = {}
    for iou_type in iou_types:
        stats = _evaluate(truth, detections[iou_type], category_ids, iou_type)
        # pycocotools says -1 where there is no object.
        metrics |= {f"{iou_type}/{k}": float(v) for k, v in zip(METRICS, stats, strict=False) if v >= 0}
    return metrics


def _check_known(path: Path, what: str, asked: Sequence[int], entries: list[dict[str, Any]]) -> None:
    unknown = sorted(set(asked) - {entry["id"] for entry in entries})
    if unknown:
        raise DataError(
            f"{path} does not have all {what} that are to be evaluated",
            got=unknown[:10],
            expected=f"{what} of this file",
            remedy="evaluate on the annotations of the data set that the detections were made on",
        )


def _detections(
    image_id: int, outputs: Mapping[str, np.ndarray], category_ids: Sequence[int], iou_type: str
) -> list[dict[str, Any]]:
    """An image's detections as pycocotools has them; boxes become x, y, width, height, masks RLE."""
    boxes = np.asarray(outputs["pred_boxes"], dtype=np.float64).reshape(-1, 4)
    shapes: list[dict[str, Any]]
    if iou_type == "segm":
        masks = np.asfortranarray(outputs["pred_masks"].transpose(1, 2, 0), dtype=np.uint8)
        rles = coco_mask.encode(masks)
        shapes = [{"segmentation": rle, "area": float(coco_mask.area(rle))} for rle in rles]
    else:
        boxes[:, 2:] -= boxes[:, :2]
        shapes = [{"bbox": box.tolist(), "area": float(box[2] * box[3])} for box in boxes]
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[int(k)],
            "score": float(score),
            "iscrowd": 0,
            **shape,
        }
        for k, score, shape in zip(outputs["pred_classes"], outputs["scores"], shapes, strict=True)
    ]


def _evaluate(
    truth: dict[str, Any], detections: list[dict[str, Any]], category_ids: Sequence[int], iou_type: str
) -> np.ndarray:
    found = [{**detection, "id": i} for i, detection in enumerate(detections, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        # Not COCO.loadRes, which cannot take an empty list.
        evaluation = COCOeval(_index(truth), _index({**truth, "annotations": found}), iou_type)
        evaluation.params.catIds = list(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
