"""Statistics of a data set's labels, by which a new state of the data is compared with an earlier one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.data.annotations import read_panoptic_annotations
from detexport.data.coco import CocoDataset, CocoRecord, find_annotations, load_coco

SPLITS = ("train", "val")
OUTSIDE_PX = 1.0
"""Distance in px by which a box may exceed its image: annotation tools round."""
MOST_EXAMPLES = 5


def describe_labels(folder: Path, categories: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Count the images and the labels of each split.

    Args:
        folder: a data set in the standard layout, or in that of COCO's downloads.
        categories: names of the classes to keep; None keeps all.

    Returns:
        For ``"train"`` and ``"val"``, if the data set has the split: ``images``; ``images_without_labels``;
        ``labels``, their number by the name of the class, also of classes without one; ``boxes_outside``, the
        number of boxes that exceed their image by more than 1 px; ``boxes_outside_ids``, the first of them.
        With panoptic annotations also ``stuff``, the number of segments by the name of the stuff class.

    Raises:
        DataError: the data set cannot be read.
    """
    return {
        split: _describe(load_coco(folder, split, categories))
        for split in SPLITS
        if find_annotations(folder, split, "instances").exists()
    }


def _describe(dataset: CocoDataset) -> dict[str, Any]:
    labels = Counter(dict.fromkeys(dataset.class_names, 0))
    outside = []
    for record in dataset.images:
        for annotation in record.annotations:
            labels[dataset.class_names[annotation["category_id"]]] += 1
            if _is_outside(annotation["bbox"], record):
                outside.append(annotation["id"])
    stuff = {"stuff": _count_stuff(dataset.panoptic_file)} if dataset.panoptic_file.exists() else {}
    return {
        "images": len(dataset.images),
        "images_without_labels": sum(not record.annotations for record in dataset.images),
        "labels": dict(labels),
        "boxes_outside": len(outside),
        "boxes_outside_ids": outside[:MOST_EXAMPLES],
        **stuff,
    }


def _count_stuff(panoptic_file: Path) -> dict[str, int]:
    """Count the segments of each stuff class of a panoptic annotation file."""
    value = read_panoptic_annotations(panoptic_file)
    segments = Counter(one["category_id"] for entry in value["annotations"] for one in entry["segments_info"])
    return {one["name"]: segments[one["id"]] for one in value["categories"] if not one["isthing"]}


def _is_outside(bbox: Sequence[float], record: CocoRecord) -> bool:
    """Return whether a box (x, y, width, height in px) exceeds its image."""
    x, y, width, height = bbox
    excess = (-x, -y, x + width - record.width, y + height - record.height)
    return max(excess) > OUTSIDE_PX
