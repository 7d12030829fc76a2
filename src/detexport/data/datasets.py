"""COCO's annotation files as the records that ``DatasetCatalog`` gives.

A record is a dict an image: ``file_name``, ``height`` and ``width`` in px, ``image_id`` and ``annotations``,
a list of dicts with ``bbox`` and its ``bbox_mode``, ``category_id`` (the class index), ``iscrowd`` and, where
the file has them, ``segmentation`` (polygons or RLE) and ``keypoints`` (x, y, visibility, ..., in px from the
image's corner). It may have ``sem_seg_file_name`` and proposals too.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.data.catalog import DatasetCatalog, MetadataCatalog
from detexport.data.coco import read_annotations
from detexport.structures import BoxMode

logger = logging.getLogger(__name__)


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str | Path, image_root: str | Path
) -> None:
    """Name a data set in COCO's format; the file is read when the data set is asked for.

    Args:
        name: of the data set, in both catalogs.
        metadata: what else is known of it.
        json_file: COCO's instance or keypoint annotations.
        image_root: folder of the images.

    Raises:
        DataError: the name is taken.
    """
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=str(json_file), image_root=str(image_root), evaluator_type="coco", **metadata
    )


def load_coco_json(
    json_file: str | Path,
    image_root: str | Path,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Read COCO's instance or keypoint annotations.

    Class indices follow the order of the category ids. Keypoints, which are indices of pixels in the file,
    are moved to the pixels' centres. An annotation whose polygons have fewer than three corners is left out
    with a warning.

    Args:
        json_file: the annotations.
        image_root: folder that their file names are relative to.
        dataset_name: the class names and ids are noted in the metadata of this data set.
        extra_annotation_keys: keys of the annotations to keep beside the known ones.

    Returns:
        a record an image, by id.

    Raises:
        DataError: the file is missing or is not COCO's.
    """
    value = read_annotations(Path(json_file))
    categories = sorted(value["categories"], key=lambda category: category["id"])
    class_of = {category["id"]: index for index, category in enumerate(categories)}
    if dataset_name is not None:
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[category["name"] for category in categories],
            thing_dataset_id_to_contiguous_id=class_of,
        )
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    left_out = 0
    keys = ("iscrowd", "segmentation", "keypoints", *extra_annotation_keys)
    for annotation in value["annotations"]:
        kept = {key: annotation[key] for key in keys if key in annotation}
        kept |= {"bbox": annotation["bbox"], "bbox_mode": BoxMode.XYWH_ABS}
        kept["category_id"] = class_of[annotation["category_id"]]
        if isinstance(kept.get("segmentation"), list):
            polygons = [p for p in kept["segmentation"] if len(p) >= 6 and len(p) % 2 == 0]
            if not polygons:
                left_out += 1
                continue
            kept["segmentation"] = polygons
        if "keypoints" in kept:
            kept["keypoints"] = [
                number if place % 3 == 2 else number + 0.5 for place, number in enumerate(kept["keypoints"])
            ]
        by_image[annotation["image_id"]].append(kept)
    if left_out:
        logger.warning("%s: %d annotations without a valid polygon are left out", json_file, left_out)
    return [
        {
            "file_name": str(Path(image_root) / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": by_image[image["id"]],
        }
        for image in sorted(value["images"], key=lambda image: image["id"])
    ]
