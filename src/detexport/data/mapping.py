"""From a record of a data set to what a model takes."""

from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask

from detexport.data.coco import CocoRecord, read_image
from detexport.structures import BitMasks, Boxes, Instances


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons, compressed or plain RLE) as a bitmap.

    Returns:
        (height, width) bool.
    """
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

    Args:
        record: an image of the data set; crowds are left out.
        channel_order: order of the image's channels.
        flip: mirror image and ground truth from left to right.

    Returns:
        ``image`` (3, H, W) uint8 and ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_masks``.
    """
    image = read_image(record.file_name, channel_order)
    things = [annotation for annotation in record.annotations if not annotation.get("iscrowd", 0)]
    boxes = np.array([annotation["bbox"] for annotation in things], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    size = (record.height, record.width)
    masks = [annotation_mask(annotation["segmentation"], *size) for annotation in things]
    bitmaps = np.stack(masks) if masks else np.zeros((0, *size), bool)
    if flip:
        image, bitmaps = image[:, :, ::-1], bitmaps[:, :, ::-1]
        boxes[:, [0, 2]] = record.width - boxes[:, [2, 0]]
    instances = Instances(
        size,
        gt_boxes=Boxes(torch.from_numpy(boxes)),
        gt_classes=torch.tensor([annotation["category_id"] for annotation in things], dtype=torch.int64),
        gt_masks=BitMasks(torch.from_numpy(np.ascontiguousarray(bitmaps))),
    )
    return {"image": torch.from_numpy(np.ascontiguousarray(image)), "instances": instances}
