"""From a record of a data set to what a model takes.

Shapes: R instances, K keypoints.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask

from detexport.data.coco import CocoRecord, read_record, read_sem_seg
from detexport.data.segmentation import checked_segmentation
from detexport.errors import DataError
from detexport.structures import BitMasks, Boxes, Instances, Keypoints

SEMANTIC_ARCHITECTURES = ("PanopticFPN", "SemanticSegmentor")


@dataclass(frozen=True)
class GroundTruth:
    """What a model learns from, beside boxes and classes.

    Args:
        masks: of each instance.
        keypoints: of each instance.
        sem_seg: class of each pixel.
        min_keypoints: an image is learnt from if it has at least so many labelled keypoints.
    """

    masks: bool = False
    keypoints: bool = False
    sem_seg: bool = False
    min_keypoints: int = 0

    @staticmethod
    def of(cfg: Any) -> "GroundTruth":
        """What the model that a configuration describes learns from."""
        keypoints = bool(cfg.MODEL.KEYPOINT_ON)
        return GroundTruth(
            masks=bool(cfg.MODEL.MASK_ON),
            keypoints=keypoints,
            sem_seg=cfg.MODEL.META_ARCHITECTURE in SEMANTIC_ARCHITECTURES,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
        )

    @property
    def annotations(self) -> Literal["instances", "keypoints"]:
        """Kind of annotations to read."""
        return "keypoints" if self.keypoints else "instances"


def learnable(records: Iterable[CocoRecord], truth: GroundTruth) -> list[CocoRecord]:
    """The images that have annotations, and enough keypoints."""
    return [
        record
        for record in records
        if record.annotations and labelled_keypoints(record.annotations) >= truth.min_keypoints
    ]


def labelled_keypoints(annotations: Iterable[dict[str, Any]]) -> int:
    """Keypoints of an image's annotations, crowds aside, that are not of the visibility 0."""
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
    """An image with its ground truth, at its own size.

    Args:
        record: an image of the data set; crowds are left out.
        channel_order: order of the image's channels.
        truth: what to learn from.
        flip: mirror image and ground truth from left to right.
        keypoint_flip: for each keypoint the index of the one that it becomes in a mirror.

    Returns:
        ``image`` (3, H, W) uint8; ``instances``, see ``annotations_to_instances``; and, if it is asked for,
        ``sem_seg`` (H, W) int64, the class of each pixel.

    Raises:
        DataError: an image cannot be read, or what is to be learnt from is not annotated.
    """
    pixels = {"image": read_record(record, channel_order)}
    if truth.sem_seg:
        pixels["sem_seg"] = read_sem_seg(record)
    things = [annotation for annotation in record.annotations if not annotation.get("iscrowd", 0)]
    if truth.keypoints:
        things = [keypoints_at_pixel_centers(annotation) for annotation in things]
    instances = annotations_to_instances(things, (record.height, record.width), truth)
    if flip:
        instances = flip_instances(instances, keypoint_flip)
        pixels = {name: values[..., ::-1] for name, values in pixels.items()}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in pixels.items()}
    return {**tensors, "instances": instances}


def annotations_to_instances(
    annotations: Sequence[dict[str, Any]], image_size: tuple[int, int], truth: GroundTruth
) -> Instances:
    """An image's annotations as what a model learns from.

    Boxes are clipped to the image. What nothing can be learnt from, a box or a mask that is empty, is left
    out: an empty box would overlap no anchor, and its best anchors would be all of them.

    Args:
        annotations: as COCO has them, with class indices as ``category_id``, keypoints in px from the corner
            of the image; none is a crowd.
        image_size: height and width in px.
        truth: what to learn from.

    Returns:
        ``gt_boxes``, ``gt_classes`` and, if they are asked for, ``gt_masks``, ``gt_keypoints``.

    Raises:
        DataError: an annotation has no segmentation or no keypoints that are to be learnt from.
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
    """(R, 4) float32 XYXY in px of COCO's boxes, clipped to the image."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    height, width = image_size
    return torch.from_numpy(boxes.clip(0, [width, height] * 2).astype(np.float32))


def annotation_masks(annotations: Sequence[dict[str, Any]], image_size: tuple[int, int]) -> BitMasks:
    """COCO's segmentations as bitmaps.

    Raises:
        DataError: an annotation has none.
    """
    bitmaps = [annotation_mask(_required(a, "segmentation"), *image_size) for a in annotations]
    return BitMasks(torch.from_numpy(np.array(bitmaps, bool).reshape(-1, *image_size)))


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons, compressed or plain RLE) as a bitmap.

    Returns:
        (height, width) bool; empty where there is no segmentation, or no polygon of it is valid.

    Raises:
        DataError: it is not valid, see ``detexport.data.segmentation``.
    """
    try:
        segmentation = checked_segmentation(segmentation, height, width)
    except ValueError as error:
        raise DataError(
            "a segmentation is not valid",
            got=error,
            expected="polygons, or run lengths of the image's size",
            remedy="correct the annotations",
        ) from error
    if not segmentation:
        return np.zeros((height, width), bool)
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)


def annotation_keypoints(annotations: Sequence[dict[str, Any]]) -> Keypoints:
    """COCO's keypoints; x and y of those that are not labelled become 0.

    Raises:
        DataError: an annotation has none, or they differ in number.
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
    """An annotation with its keypoints in px from the image's corner: COCO's are indices of pixels.

    Raises:
        DataError: it has none.
    """
    keypoints = np.array(_required(annotation, "keypoints"), np.float64).reshape(-1, 3)
    keypoints[:, :2] += 0.5
    return {**annotation, "keypoints": keypoints.flatten().tolist()}


def flip_instances(instances: Instances, keypoint_flip: Sequence[int] = ()) -> Instances:
    """The ground truth of an image's mirror image.

    Args:
        instances: with ``gt_boxes`` and other fields as ``annotations_to_instances`` gives them.
        keypoint_flip: for each keypoint the index of the one that it becomes in a mirror.

    Raises:
        DataError: there is not one for each keypoint.
    """
    width = instances.image_size[1]
    flipped = Instances(instances.image_size, **instances.get_fields())
    boxes = instances.gt_boxes.tensor.clone()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    flipped.gt_boxes = Boxes(boxes)
    if instances.has("gt_masks"):
        flipped.gt_masks = BitMasks(instances.gt_masks.tensor.flip(2))
    # Without an instance nothing says how many keypoints each would have.
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
