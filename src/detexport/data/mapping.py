"""From a record of a data set to what a model takes."""

from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask

from detexport.data.coco import CocoRecord, read_image
from detexport.errors import DataError
from detexport.structures import BitMasks, Boxes, Instances


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons, compressed or plain RLE) as a bitmap.

    Returns:
        (height, width) bool.
    """
    if not segmentation:
        return np.zeros((height, width), bool)
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)


def training_example(
    record: CocoRecord, channel_order: Literal["RGB", "BGR"], *, flip: bool = False
) -> dict[str, Any]:
    """An image with its ground truth, at its own size.

    Boxes are clipped to the image. What nothing can be learnt from, a box or a mask that is empty, is left
    out: an empty box would overlap no anchor, and its best anchors would be all of them.

    Args:
        record: an image of the data set; crowds are left out.
        channel_order: order of the image's channels.
        flip: mirror image and ground truth from left to right.

    Returns:
        ``image`` (3, H, W) uint8 and ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_masks``.

    Raises:
        DataError: the image cannot be read, or an annotation has no segmentation.
    """
    image = read_image(record.file_name, channel_order)
    things = [annotation for annotation in record.annotations if not annotation.get("iscrowd", 0)]
    boxes = np.array([annotation["bbox"] for annotation in things], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.clip(0, [record.width, record.height] * 2).astype(np.float32)
    classes = np.array([annotation["category_id"] for annotation in things], np.int64)
    size = (record.height, record.width)
    bitmaps = np.array([annotation_mask(_segmentation(a), *size) for a in things], bool).reshape(-1, *size)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1) & bitmaps.any((1, 2))
    boxes, classes, bitmaps = boxes[kept], classes[kept], bitmaps[kept]
    if flip:
        image, bitmaps = image[:, :, ::-1], bitmaps[:, :, ::-1]
        boxes[:, [0, 2]] = record.width - boxes[:, [2, 0]]
    instances = Instances(
        size,
        gt_boxes=Boxes(torch.from_numpy(boxes)),
        gt_classes=torch.from_numpy(classes),
        gt_masks=BitMasks(torch.from_numpy(np.ascontiguousarray(bitmaps))),
    )
    return {"image": torch.from_numpy(np.ascontiguousarray(image)), "instances": instances}


def _segmentation(annotation: dict[str, Any]) -> Any:
    if "segmentation" not in annotation:
        raise DataError(
            f"annotation {annotation['id']} has no segmentation",
            got=f"keys {', '.join(sorted(annotation))}",
            expected="a segmentation, as polygons or RLE, for each annotation to learn from",
            remedy="train on instance annotations",
        )
    return annotation["segmentation"]
