"""What a model finds, judged as COCO does: average precision by pycocotools, panoptic quality."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from detexport.data.coco import CocoDataset, read_annotations, read_image
from detexport.data.resize import resize_image, resized_size
from detexport.engine.panoptic_quality import PanopticQuality
from detexport.errors import ConfigError, DataError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""COCO's first six numbers: the mean over IoU 0.50 to 0.95, two single IoUs, and three ranges of area."""

KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")
"""Likewise over the similarity of keypoints (OKS), which knows no small objects."""

FIELDS = {"pred_boxes": "bbox", "pred_masks": "segm", "pred_keypoints": "keypoints"}
"""What is judged by which kind of AP."""


def evaluate(model: Any, dataset: CocoDataset, keypoint_sigmas: Sequence[float] = ()) -> dict[str, float]:
    """Judge everything that a model gives, over all images of a split.

    Args:
        model: put into evaluation mode.
        dataset: with keypoints, if the model gives any.
        keypoint_sigmas: see ``coco_ap``.

    Returns:
        AP of boxes, masks and keypoints, see ``coco_ap``; the quality of segments, see ``PanopticQuality``.

    Raises:
        DataError: the data set has no image, or no annotations of what the model gives.
    """
    model.eval()
    quality: PanopticQuality | None = None

    def detections() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal quality
        for image_id, outputs in predictions(model, dataset):
            if "panoptic_seg" in outputs:
                quality = quality or PanopticQuality(dataset.panoptic_file, dataset.category_ids)
                quality.add(image_id, *outputs["panoptic_seg"])
            yield image_id, outputs

    found = detections()
    first = next(found, None)
    if first is None:
        raise DataError(
            f"{dataset.annotation_file} has no image to evaluate on", expected="at least one image"
        )
    iou_types = [iou_type for field, iou_type in FIELDS.items() if field in first[1]]
    metrics = coco_ap(
        dataset.annotation_file, chain([first], found), dataset.category_ids, iou_types, keypoint_sigmas
    )
    return metrics | (quality.result() if quality else {})


@torch.no_grad()
def predictions(model: Any, dataset: CocoDataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Outputs for every image, resized as the model asks, one at a time.

    Yields:
        image id and, as numpy arrays, the fields of ``instances`` in px of the image as it was read; and
        ``panoptic_seg``, an array and a list, where the model gives it.

    Raises:
        DataError: a panoptic map comes without ``segments_info``: what its numbers mean is not known here.
    """
    for record in tqdm(dataset.images, desc="evaluate", unit="image"):
        image = read_image(record.file_name, model.input_format)
        size = resized_size(record.height, record.width, model.resize)
        example = {
            "image": torch.from_numpy(resize_image(image, size)),
            "height": record.height,
            "width": record.width,
        }
        result = model([example])[0]
        instances = result["instances"].to("cpu")
        outputs: dict[str, Any] = {
            name: (value.tensor if name == "pred_boxes" else value).numpy()
            for name, value in instances.get_fields().items()
        }
        if "panoptic_seg" in result:
            segment_map, segments = result["panoptic_seg"]
            if segments is None:
                raise DataError(
                    "a panoptic map without segments_info cannot be evaluated",
                    got="segments_info: None",
                    expected="a dict a segment",
                    remedy="make them by detexport.data.panoptic.segments_of_ids",
                )
            outputs["panoptic_seg"] = segment_map.cpu().numpy(), segments
        yield record.image_id, outputs


def coco_ap(
    annotations: Path,
    predictions: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    category_ids: Sequence[int],
    iou_types: Sequence[str] = ("bbox", "segm"),
    keypoint_sigmas: Sequence[float] = (),
) -> dict[str, float]:
    """Average precision of detections on all images of an annotation file.

    Args:
        annotations: COCO's instance annotation file, for ``"keypoints"`` with those; an image that
            ``predictions`` does not mention counts as one on which nothing was found.
        predictions: image id and ``pred_boxes`` (R, 4) XYXY in px of the annotated image, ``scores`` (R,),
            ``pred_classes`` (R,); for ``"segm"`` ``pred_masks`` bool (R, H, W); for ``"keypoints"``
            ``pred_keypoints`` (R, K, 3), x and y in px from the image's corner. Read once; masks are kept
            compressed.
        category_ids: COCO's category id of each class index; others are not evaluated.
        iou_types: ``"bbox"``, ``"segm"``, ``"keypoints"``.
        keypoint_sigmas: of each keypoint, how far people place it apart, as a part of the object's size; by
            default COCO's of the 17 keypoints of a person.

    Returns:
        ``{"bbox/AP": ..., "bbox/AP50": ..., ..., "segm/APl": ...}`` in [0, 1]. A metric that is not defined,
        because no object has the asked-for area, is left out.

    Raises:
        DataError: the file is missing or is not COCO's, or lacks a category, an image or the keypoints.
        ConfigError: there is not one sigma a keypoint.
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
        stats = _evaluate(truth, detections[iou_type], category_ids, iou_type, keypoint_sigmas)
        names = KEYPOINT_METRICS if iou_type == "keypoints" else METRICS
        # pycocotools says -1 where there is no object.
        metrics |= {f"{iou_type}/{k}": float(v) for k, v in zip(names, stats, strict=False) if v >= 0}
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
    boxes = np.asarray(outputs["pred_boxes"], dtype=np.float64).reshape(-1, 4)
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
        for k, score, shape in zip(outputs["pred_classes"], outputs["scores"], shapes, strict=True)
    ]


def _evaluate(
    truth: dict[str, Any],
    detections: list[dict[str, Any]],
    category_ids: Sequence[int],
    iou_type: str,
    keypoint_sigmas: Sequence[float],
) -> np.ndarray:
    found = [{**detection, "id": i} for i, detection in enumerate(detections, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        # Not COCO.loadRes, which cannot take an empty list.
        evaluation = COCOeval(_index(truth), _index({**truth, "annotations": found}), iou_type)
        evaluation.params.catIds = list(category_ids)
        if iou_type == "keypoints":
            if keypoint_sigmas:
                evaluation.params.kpt_oks_sigmas = np.array(keypoint_sigmas)
            _check_keypoints(truth, detections, len(evaluation.params.kpt_oks_sigmas))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


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
