"""Average precision and recall as COCO has them, by pycocotools."""

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
from detexport.errors import ConfigError, DataError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""COCO's first six numbers: the mean over IoU 0.50 to 0.95, two single IoUs, and three ranges of area."""

KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")
"""Likewise over the similarity of keypoints (OKS), which knows no small objects."""

RECALL_METRICS = ("AR1", "AR10", "AR100")
"""Average recall with so many proposals an image, whatever their class."""

BOXES_AND_SCORES = (("pred_boxes", "scores"), ("proposal_boxes", "objectness_logits"))


def coco_ap(
    annotations: Path,
    predictions: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    category_ids: Sequence[int],
    iou_types: Sequence[str] = ("bbox", "segm"),
    keypoint_sigmas: Sequence[float] = (),
    image_ids: Sequence[int] | None = None,
) -> dict[str, float]:
    """Average precision of detections on the images of an annotation file.

    Args:
        annotations: COCO's instance annotation file, for ``"keypoints"`` with those.
        predictions: image id and ``pred_boxes`` (R, 4) XYXY in px of the annotated image, ``scores`` (R,),
            ``pred_classes`` (R,); for ``"segm"`` ``pred_masks`` bool (R, H, W); for ``"keypoints"``
            ``pred_keypoints`` (R, K, 3), x and y in px from the image's corner. Read once; masks are kept
            compressed.
        category_ids: COCO's category id of each class index; others are not evaluated.
        iou_types: ``"bbox"``, ``"segm"``, ``"keypoints"``; ``"proposals"`` are ``proposal_boxes`` (P, 4) with
            ``objectness_logits`` (P,), judged by their recall.
        keypoint_sigmas: of each keypoint, how far people place it apart, as a part of the object's size; by
            default COCO's of the 17 keypoints of a person.
        image_ids: the images that count, by default all of the file; one that ``predictions`` does not
            mention counts as one on which nothing was found.

    Returns:
        ``{"bbox/AP": ..., "bbox/AP50": ..., ..., "segm/APl": ..., "proposals/AR100": ...}`` in [0, 1]. A
        metric that is not defined, because no object has the asked-for area, is left out.

    Raises:
        DataError: the file is missing or is not COCO's, or lacks a category, an image or the keypoints.
        ConfigError: there is not one sigma a keypoint.
    """
    truth = read_annotations(annotations)
    _check_known(annotations, "category ids", category_ids, truth["categories"])
    # To pycocotools a match with the annotation of id 0 is none.
    truth["annotations"] = [{**a, "id": i} for i, a in enumerate(truth["annotations"], start=1)]
    detections: dict[str, list[dict[str, Any]]] = {iou_type: [] for iou_type in iou_types}
    mentioned = []
    for image_id, outputs in predictions:
        mentioned.append(image_id)
        for iou_type in iou_types:
            detections[iou_type] += _detections(image_id, outputs, category_ids, iou_type)
    _check_known(annotations, "image ids", mentioned, truth["images"])

    metrics: dict[str, float] = {}
    for iou_type in iou_types:
        metrics |= _evaluate(truth, detections[iou_type], category_ids, iou_type, keypoint_sigmas, image_ids)
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
    """An image's detections as pycocotools has them; boxes become x, y, width, height, masks RLE.

    Keypoints become indices of pixels; their area is that of the box around them, as pycocotools has it.
    """
    of_proposals = iou_type == "proposals"
    boxes_name, scores_name = BOXES_AND_SCORES[of_proposals]
    boxes = np.asarray(outputs[boxes_name], dtype=np.float64).reshape(-1, 4)
    scores = outputs[scores_name]
    classes = np.zeros(len(scores), np.int64) if of_proposals else outputs["pred_classes"]
    shapes: list[dict[str, Any]]
    if iou_type == "segm":
        masks = np.asfortranarray(outputs["pred_masks"].transpose(1, 2, 0), dtype=np.uint8)
        rles = coco_mask.encode(masks)
        shapes = [{"segmentation": rle, "area": float(coco_mask.area(rle))} for rle in rles]
    elif iou_type == "keypoints":
        shapes = []
        for keypoints in np.asarray(outputs["pred_keypoints"], dtype=np.float64):
            extent = np.ptp(keypoints[:, :2], axis=0)
            flat = (keypoints - [0.5, 0.5, 0.0]).flatten().tolist()
            shapes.append({"keypoints": flat, "area": float(extent.prod())})
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
        for k, score, shape in zip(classes, scores, shapes, strict=True)
    ]


def _evaluate(
    truth: dict[str, Any],
    detections: list[dict[str, Any]],
    category_ids: Sequence[int],
    iou_type: str,
    keypoint_sigmas: Sequence[float],
    image_ids: Sequence[int] | None,
) -> dict[str, float]:
    found = [{**detection, "id": i} for i, detection in enumerate(detections, start=1)]
    of_proposals = iou_type == "proposals"
    with contextlib.redirect_stdout(io.StringIO()):
        # Not COCO.loadRes, which cannot take an empty list.
        evaluation = COCOeval(
            _index(truth), _index({**truth, "annotations": found}), "bbox" if of_proposals else iou_type
        )
        evaluation.params.catIds = list(category_ids)
        evaluation.params.useCats = not of_proposals
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        if iou_type == "keypoints":
            if keypoint_sigmas:
                evaluation.params.kpt_oks_sigmas = np.array(keypoint_sigmas)
            _check_keypoints(truth, detections, len(evaluation.params.kpt_oks_sigmas))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = {"keypoints": KEYPOINT_METRICS, "proposals": RECALL_METRICS}.get(iou_type, METRICS)
    # Of boxes, pycocotools gives the six precisions first, then the recalls.
    stats = evaluation.stats[len(METRICS) :] if of_proposals else evaluation.stats
    # It says -1 where there is no object.
    return {f"{iou_type}/{k}": float(v) for k, v in zip(names, stats, strict=False) if v >= 0}


def _check_keypoints(truth: dict[str, Any], detections: list[dict[str, Any]], sigmas: int) -> None:
    if not all("keypoints" in annotation for annotation in truth["annotations"]):
        raise DataError(
            "the annotations have no keypoints",
            expected="COCO's keypoint annotations",
            remedy="evaluate on the data set's keypoints",
        )
    entries = (*truth["annotations"], *detections)
    numbers = sorted({len(entry["keypoints"]) // 3 for entry in entries} - {sigmas})
    if numbers:
        raise ConfigError(
            "the sigmas do not fit the keypoints",
            got=f"{sigmas} sigmas, {' and '.join(map(str, numbers))} keypoints",
            expected="one for each keypoint",
            remedy="set TEST.KEYPOINT_OKS_SIGMAS",
        )


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
