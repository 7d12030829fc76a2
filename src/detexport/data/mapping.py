"""Mapping of records of a data set to training examples.

Shapes: R instances, K keypoints.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from detexport.data.coco import CocoRecord, read_record, read_sem_seg
from detexport.data.segmentation import annotation_mask
from detexport.errors import DataError
from detexport.structures import BitMasks, Boxes, Instances, Keypoints

SEMANTIC_ARCHITECTURES = ("PanopticFPN", "SemanticSegmentor")


@dataclass(frozen=True)
class GroundTruth:
    """Kinds of annotations that a model is trained on.

    Args:
        masks: of each instance.
        keypoints: of each instance.
        sem_seg: class of each pixel.
        min_keypoints: minimum number of labelled keypoints of a training image.
        instances: boxes and classes. Without them, images without instances are trained on, too.
    """

    masks: bool = False
    keypoints: bool = False
    sem_seg: bool = False
    min_keypoints: int = 0
    instances: bool = True

    @staticmethod
    def of(cfg: Any) -> "GroundTruth":
        """Return the kinds of annotations that the model of a configuration is trained on."""
        keypoints = bool(cfg.MODEL.KEYPOINT_ON)
        return GroundTruth(
            masks=bool(cfg.MODEL.MASK_ON),
            keypoints=keypoints,
            sem_seg=cfg.MODEL.META_ARCHITECTURE in SEMANTIC_ARCHITECTURES,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
            instances=cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor",
        )

    @property
    def annotations(self) -> Literal["instances", "keypoints"]:
        """Kind of the annotation file to read."""
        return "keypoints" if self.keypoints else "instances"


def learnable(records: Iterable[CocoRecord], truth: GroundTruth) -> list[CocoRecord]:
    """Return the images that have the annotations that a model is trained on, and enough keypoints."""
    return [
        record
        for record in records
        if (record.annotations or not truth.instances)
        and labelled_keypoints(record.annotations) >= truth.min_keypoints
    ]


def labelled_keypoints(annotations: Iterable[dict[str, Any]]) -> int:
    """Count the keypoints of visibility 1 or 2 in an image's annotations, without crowds."""
    return sum(
        visibility > 0
        for annotation in annotations
        if not annotation.get("iscrowd", 0)
        for visibility in annotation.get("keypoints", ())[2::3]
    )


def training_example(
    record: CocoRecord,
    channel_order: Literal["RGB", "BGR"],
    truth: GroundTruth,
    *,
    flip: bool = False,
    keypoint_flip: Sequence[int] = (),
) -> dict[str, Any]:
    """Return an image with its ground truth, at its own size.

    Args:
        record: an image of the data set; crowds are left out.
        channel_order: order of the image's channels.
        truth: kinds of annotations to include.
        flip: whether to flip the image and its ground truth horizontally.
        keypoint_flip: for each keypoint the index of its counterpart after a horizontal flip.

    Returns:
        ``image`` (3, H, W) uint8; ``instances``, see ``build_gt_instances``; and, if ``truth`` includes
        it, ``sem_seg`` (H, W) int64, the class of each pixel.

    Raises:
        DataError: an image cannot be read, or lacks a kind of annotation in ``truth``.
    """
    pixels = {"image": read_record(record, channel_order)}
    if truth.sem_seg:
        pixels["sem_seg"] = read_sem_seg(record)
    things = [annotation for annotation in record.annotations if not annotation.get("iscrowd", 0)]
    if truth.keypoints:
        things = [keypoints_at_pixel_centers(annotation) for annotation in things]
    instances = build_gt_instances(things, (record.height, record.width), truth)
    if flip:
        instances = flip_instances(instances, keypoint_flip)
        pixels = {name: values[..., ::-1] for name, values in pixels.items()}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in pixels.items()}
    return {**tensors, "instances": instances}


def build_gt_instances(
    annotations: Sequence[dict[str, Any]], image_size: tuple[int, int], truth: GroundTruth
) -> Instances:
    """Convert an image's annotations to ground-truth instances.

    Boxes are clipped to the image. Instances with an empty box or mask are left out: an empty box overlaps no
    anchor, so all anchors would count as its best ones.

    Args:
        annotations: in COCO's form, with class indices as ``category_id`` and keypoints in px from the corner
            of the image; without crowds.
        image_size: height and width in px.
        truth: kinds of annotations to include.

    Returns:
        ``gt_boxes``, ``gt_classes`` and, if ``truth`` includes them, ``gt_masks`` and ``gt_keypoints``.

    Raises:
        DataError: an annotation lacks the segmentation or keypoints that ``truth`` includes.
    """
    boxes = annotation_boxes(annotations, image_size)
    classes = np.array([annotation["category_id"] for annotation in annotations], np.int64)
    instances = Instances(image_size, gt_boxes=Boxes(boxes), gt_classes=torch.from_numpy(classes))
    kept = instances.gt_boxes.nonempty()
    if truth.masks:
        instances.gt_masks = annotation_masks(annotations, image_size)
        kept &= instances.gt_masks.nonempty()
    if truth.keypoints:
        instances.gt_keypoints = annotation_keypoints(annotations)
    return instances[kept]


def annotation_boxes(annotations: Sequence[dict[str, Any]], image_size: tuple[int, int]) -> torch.Tensor:
    """Return COCO's boxes as (R, 4) float32 XYXY in px, clipped to the image."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    height, width = image_size
    return torch.from_numpy(boxes.clip(0, [width, height] * 2).astype(np.float32))


def annotation_masks(annotations: Sequence[dict[str, Any]], image_size: tuple[int, int]) -> BitMasks:
    """Convert COCO's segmentations to bitmaps.

    Raises:
        DataError: an annotation has no segmentation.
    """
    bitmaps = [annotation_mask(_required(a, "segmentation"), *image_size) for a in annotations]
    return BitMasks(torch.from_numpy(np.array(bitmaps, bool).reshape(-1, *image_size)))


def annotation_keypoints(annotations: Sequence[dict[str, Any]]) -> Keypoints:
    """Convert COCO's keypoints; x and y of unlabelled ones become 0.

    Raises:
        DataError: an annotation has no keypoints, or their numbers differ.
    """
    rows = [np.array(_required(a, "keypoints"), np.float32).reshape(-1, 3) for a in annotations]
    counts = sorted({len(row) for row in rows})
    if len(counts) > 1:
        raise DataError(
            "the instances of an image differ in their keypoints",
            got=f"{' and '.join(map(str, counts))} keypoints",
            expected="as many keypoints for each instance",
            remedy="mend the annotation file",
        )
    keypoints = np.array(rows).reshape(len(rows), counts[0] if counts else 0, 3)
    return Keypoints(torch.from_numpy(np.where(keypoints[..., 2:] > 0, keypoints, 0).astype(np.float32)))


def keypoints_at_pixel_centers(annotation: dict[str, Any]) -> dict[str, Any]:
    """Convert the keypoints of an annotation from COCO's pixel indices to px from the image's corner.

    Raises:
        DataError: the annotation has no keypoints.
    """
    keypoints = np.array(_required(annotation, "keypoints"), np.float64).reshape(-1, 3)
    keypoints[:, :2] += 0.5
    return {**annotation, "keypoints": keypoints.flatten().tolist()}


def flip_instances(instances: Instances, keypoint_flip: Sequence[int] = ()) -> Instances:
    """Flip ground-truth instances horizontally.

    Args:
        instances: as ``build_gt_instances`` returns them.
        keypoint_flip: for each keypoint the index of its counterpart after a horizontal flip.

    Raises:
        DataError: ``keypoint_flip`` has not one index per keypoint.
    """
    width = instances.image_size[1]
    flipped = Instances(instances.image_size, **instances.get_fields())
    boxes = instances.gt_boxes.tensor.clone()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    flipped.gt_boxes = Boxes(boxes)
    if instances.has("gt_masks"):
        flipped.gt_masks = BitMasks(instances.gt_masks.tensor.flip(2))
    # Without instances the number of keypoints is unknown.
    if instances.has("gt_keypoints") and len(instances):
        count = instances.gt_keypoints.tensor.shape[1]
        if len(keypoint_flip) != count:
            raise DataError(
                "the keypoints of a mirrored image have no names",
                got=f"names of {len(keypoint_flip)} of {count} keypoints",
                expected="the names in 'keypoints' of each category, the same for all",
                remedy="add them to the annotation file, such as left_eye and right_eye",
            )
        keypoints = instances.gt_keypoints.tensor[:, list(keypoint_flip)]
        labelled = keypoints[..., 2] > 0
        keypoints[..., 0] = torch.where(labelled, width - keypoints[..., 0], keypoints[..., 0])
        flipped.gt_keypoints = Keypoints(keypoints)
    return flipped


def _required(annotation: dict[str, Any], field: str) -> Any:
    if field not in annotation:
        raise DataError(
            f"annotation {annotation.get('id', '')} has no {field}",
            got=f"keys {', '.join(sorted(annotation))}",
            expected=f"{field} for each annotation to learn from",
            remedy="train on annotations that have them, or a model that needs none",
        )
    return annotation[field]
