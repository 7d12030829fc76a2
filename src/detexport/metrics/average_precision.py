"""COCO's average precision and recall, computed by pycocotools."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detexport.data.annotations import ImageId, id_order, read_annotations
from detexport.errors import ConfigError, DataError, MissingAnnotationsError, listed
from detexport.metrics.tallies import Matches, Recalls, Tallies

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""COCO's AP: the mean over IoU 0.50 to 0.95, at two single IoUs, and for three ranges of area."""

KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")
"""COCO's AP over the similarity of keypoints (OKS), which excludes small objects."""

RECALL_METRICS = ("AR1", "AR10", "AR100")
"""Class-agnostic average recall with 1, 10 and 100 proposals per image."""

HEADLINES = {
    "bbox": "bbox/AP",
    "segm": "segm/AP",
    "keypoints": "keypoints/AP",
    "proposals": "proposals/AR100",
}
"""The task metric of each kind."""

BOXES_AND_SCORES = (("pred_boxes", "scores"), ("proposal_boxes", "objectness_logits"))


def coco_ap(
    annotations: Path,
    predictions: Iterable[tuple[ImageId, Mapping[str, np.ndarray]]],
    category_ids: Sequence[ImageId],
    iou_types: Sequence[str] = ("bbox", "segm"),
    keypoint_sigmas: Sequence[float] = (),
    image_ids: Sequence[ImageId] | None = None,
) -> dict[str, float]:
    """Compute the average precision of detections on the images of an annotation file.

    Args:
        annotations: COCO's instance annotation file; for ``"keypoints"`` one with keypoints.
        predictions: image id and ``pred_boxes`` (R, 4) XYXY in px of the annotated image, ``scores`` (R,),
            ``pred_classes`` (R,); for ``"segm"`` ``pred_masks`` bool (R, H, W); for ``"keypoints"``
            ``pred_keypoints`` (R, K, 3), x and y in px from the image's corner. Read once; masks are stored
            compressed.
        category_ids: COCO's category id of each class index; others are not evaluated.
        iou_types: ``"bbox"``, ``"segm"``, ``"keypoints"``; ``"proposals"`` are ``proposal_boxes`` (P, 4) with
            ``objectness_logits`` (P,), evaluated by recall.
        keypoint_sigmas: standard deviation of human annotation of each keypoint, relative to the size of the
            object; by default COCO's for the 17 keypoints of a person.
        image_ids: the images to evaluate, by default all of the file; an image without predictions counts as
            one without detections.

    Returns:
        ``{"bbox/AP": ..., "bbox/AP50": ..., ..., "segm/APl": ..., "proposals/AR100": ...}`` in [0, 1]. A
        metric without objects, for example in its range of area, is left out.

    Raises:
        DataError: the file is missing or is not COCO's, or lacks a category, an image or the keypoints.
        ConfigError: the numbers of sigmas and keypoints differ.
    """
    found: dict[str, list[dict[str, Any]]] = {iou_type: [] for iou_type in iou_types}
    mentioned = []
    for image_id, outputs in predictions:
        mentioned.append(image_id)
        for iou_type in iou_types:
            found[iou_type] += coco_detections(image_id, outputs, category_ids, iou_type)
    metrics, _ = evaluate_detections(
        annotations, found, category_ids, keypoint_sigmas, image_ids, mentioned=mentioned
    )
    return metrics


def evaluate_detections(
    annotations: Path,
    detections: Mapping[str, list[dict[str, Any]]],
    category_ids: Sequence[ImageId],
    keypoint_sigmas: Sequence[float] = (),
    image_ids: Sequence[ImageId] | None = None,
    *,
    mentioned: Sequence[ImageId] = (),
) -> tuple[dict[str, float], dict[str, Tallies]]:
    """Compute the metrics of detections in pycocotools' form, and the tallies of the task metrics.

    Args:
        annotations: see ``coco_ap``.
        detections: by kind, see ``coco_detections``.
        category_ids: see ``coco_ap``.
        keypoint_sigmas: see ``coco_ap``.
        image_ids: see ``coco_ap``; tallies have the images in ascending order.
        mentioned: images that must be in the file.

    Raises:
        DataError: see ``coco_ap``.
        ConfigError: see ``coco_ap``.
    """
    truth = read_annotations(annotations)
    _check_known(annotations, "category ids", category_ids, truth["categories"])
    _check_known(annotations, "image ids", mentioned, truth["images"])
    truth, numbers = _numbered(truth)
    categories = [numbers["categories"][category] for category in category_ids]
    images = None if image_ids is None else [numbers["images"][image] for image in image_ids]
    metrics: dict[str, float] = {}
    tallies: dict[str, Tallies] = {}
    for iou_type, of_kind in detections.items():
        found = [_renumbered(detection, numbers) for detection in of_kind]
        evaluation = _evaluate(truth, found, categories, iou_type, keypoint_sigmas, images)
        metrics |= _summary(evaluation, iou_type)
        tallies[HEADLINES[iou_type]] = _matches(evaluation, iou_type)
    return metrics, tallies


def _numbered(truth: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[Any, int]]]:
    """Renumber annotations, images and categories from 1, and return the new numbers by id.

    pycocotools takes an annotation of id 0 for no match, and sorts the ids of images and categories, which
    may be strings.
    """
    numbers = {
        key: {entry["id"]: number for number, entry in enumerate(truth[key], start=1)}
        for key in ("images", "categories")
    }
    numbered = {
        key: [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]
        for key, entries in truth.items()
    }
    numbered["annotations"] = [_renumbered(entry, numbers) for entry in numbered["annotations"]]
    return numbered, numbers


def _renumbered(entry: dict[str, Any], numbers: dict[str, dict[Any, int]]) -> dict[str, Any]:
    """Replace the image and category ids of an annotation or a detection by their numbers."""
    image, category = numbers["images"][entry["image_id"]], numbers["categories"][entry["category_id"]]
    return {**entry, "image_id": image, "category_id": category}


def _check_known(path: Path, what: str, requested: Sequence[ImageId], entries: list[dict[str, Any]]) -> None:
    unknown = sorted(set(requested) - {entry["id"] for entry in entries}, key=id_order)
    if unknown:
        raise DataError(
            f"{path} does not have all {what} that are to be evaluated",
            got=f"[{listed(unknown)}]",
            expected=f"{what} of this file",
            remedy="evaluate on the annotations of the data set that the detections were made on",
        )


def coco_detections(
    image_id: ImageId, outputs: Mapping[str, np.ndarray], category_ids: Sequence[ImageId], iou_type: str
) -> list[dict[str, Any]]:
    """Convert the detections of an image to pycocotools' form; see ``coco_ap`` for the arguments.

    Boxes become x, y, width, height, masks RLE. Keypoints become indices of pixels; their area is that of
    their bounding box, as in pycocotools.
    """
    of_proposals = iou_type == "proposals"
    boxes_name, scores_name = BOXES_AND_SCORES[of_proposals]
    boxes = np.asarray(outputs[boxes_name], dtype=np.float64).reshape(-1, 4)
    scores = outputs[scores_name]
    classes = np.zeros(len(scores), np.int64) if of_proposals else outputs["pred_classes"]
    highest = int(np.max(classes, initial=0))
    if len(classes) and highest >= len(category_ids):
        raise MissingAnnotationsError(
            "the data set has fewer classes than the model",
            got=f"class index {highest} with {len(category_ids)} categories",
            expected="a category for each class",
            remedy="choose the data set that the model was trained for",
        )
    shapes: list[dict[str, Any]]
    if iou_type == "segm":
        masks = np.asfortranarray(outputs["pred_masks"].transpose(1, 2, 0), dtype=np.uint8)
        rles = coco_mask.encode(masks)
        shapes = [
            {
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "area": float(coco_mask.area(rle)),
            }
            for rle in rles
        ]
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
) -> COCOeval:
    found = [{**detection, "id": i} for i, detection in enumerate(detections, start=1)]
    of_proposals = iou_type == "proposals"
    with contextlib.redirect_stdout(io.StringIO()):
        # COCO.loadRes does not accept an empty list.
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
        if iou_type == "segm":
            _check_masks(truth, category_ids, image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _summary(evaluation: COCOeval, iou_type: str) -> dict[str, float]:
    names = {"keypoints": KEYPOINT_METRICS, "proposals": RECALL_METRICS}.get(iou_type, METRICS)
    # For boxes, pycocotools returns the six precisions first, then the recalls.
    stats = evaluation.stats[len(METRICS) :] if iou_type == "proposals" else evaluation.stats
    # The value is -1 without objects.
    return {f"{iou_type}/{k}": float(v) for k, v in zip(names, stats, strict=False) if v >= 0}


def _matches(evaluation: COCOeval, iou_type: str) -> Matches:
    """Return the matches for the first range of area, all areas, and the greatest number of detections."""
    params = evaluation.params
    images, areas = len(params.imgIds), len(params.areaRng)
    categories = len(params.catIds) if params.useCats else 1
    objects = np.zeros((categories, images), np.int64)
    thresholds = len(params.iouThrs)
    rows: dict[str, list[np.ndarray]] = {
        name: [] for name in ("image", "category", "correct", "ignored", "score")
    }
    for category in range(categories):
        start = category * areas * images
        matched = evaluation.evalImgs[start : start + images]
        evaluated = [(index, one) for index, one in enumerate(matched) if one is not None]
        for index, one in evaluated:
            objects[category, index] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        # The empty arrays set the type if no image was evaluated.
        scores = np.concatenate([np.zeros(0), *(one["dtScores"] for _, one in evaluated)])
        order = np.argsort(-scores, kind="stable")
        of_image = [np.full(len(one["dtScores"]), index, np.int32) for index, one in evaluated]
        rows["image"].append(np.concatenate([np.zeros(0, np.int32), *of_image])[order])
        rows["category"].append(np.full(len(scores), category, np.int32))
        rows["score"].append(scores[order])
        none = np.zeros((thresholds, 0), bool)
        for name, key in (("correct", "dtMatches"), ("ignored", "dtIgnore")):
            flags = [one[key].astype(bool) for _, one in evaluated]
            rows[name].append(np.concatenate([none, *flags], axis=1)[:, order])
    kind = Recalls if iou_type == "proposals" else Matches
    return kind(**{name: np.concatenate(parts, axis=-1) for name, parts in rows.items()}, objects=objects)


def _check_keypoints(truth: dict[str, Any], detections: list[dict[str, Any]], sigmas: int) -> None:
    if not all("keypoints" in annotation for annotation in truth["annotations"]):
        raise MissingAnnotationsError(
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


def _check_masks(truth: dict[str, Any], category_ids: Sequence[int], image_ids: Sequence[int] | None) -> None:
    without = [
        annotation
        for annotation in truth["annotations"]
        if "segmentation" not in annotation
        and annotation["category_id"] in category_ids
        and (image_ids is None or annotation["image_id"] in image_ids)
    ]
    if without:
        raise MissingAnnotationsError(
            "annotations have no segmentation to evaluate masks",
            got=f"{len(without)} of {len(truth['annotations'])} annotations",
            expected="polygons or RLE for each",
            remedy="evaluate boxes alone, or complete the annotations",
        )


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
