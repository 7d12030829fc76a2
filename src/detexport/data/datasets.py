"""COCO annotation files as records of ``DatasetCatalog``.

A record is one dict per image: ``file_name``, ``height`` and ``width`` in px, ``image_id`` and
``annotations``, a list of dicts with ``bbox`` and its ``bbox_mode``, ``category_id`` (the class index),
``iscrowd`` and, where the file has them, ``segmentation`` (polygons or RLE) and ``keypoints`` (x, y,
visibility, ..., in px from the image's corner). It may also have ``sem_seg_file_name`` and proposals.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.data.catalog import DatasetCatalog, MetadataCatalog
from detexport.data.coco import read_coco
from detexport.structures import BoxMode


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str | Path, image_root: str | Path
) -> None:
    """Register a data set in COCO's format; the file is read by ``DatasetCatalog.get``.

    Args:
        name: of the data set, in both catalogs.
        metadata: further attributes of the metadata.
        json_file: COCO's instance or keypoint annotations.
        image_root: folder of the images.

    Raises:
        DataError: the name is registered already.
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
    are moved to the pixels' centres. An annotation whose polygons are all invalid is left out with a warning;
    one without a segmentation is kept as a box. The images are not opened.

    Args:
        json_file: the annotations; see ``detexport.data.annotations`` for the format.
        image_root: folder that their file names are relative to.
        dataset_name: the class names and ids are stored in the metadata of this data set.
        extra_annotation_keys: further keys of the annotations to keep.

    Returns:
        one record per image, by id.

    Raises:
        DataError: the file is missing or is not COCO's.
    """
    dataset = read_coco(Path(json_file), Path(image_root))
    if dataset_name is not None:
        MetadataCatalog.get(dataset_name).set(
            thing_classes=list(dataset.class_names),
            thing_dataset_id_to_contiguous_id={id: i for i, id in enumerate(dataset.category_ids)},
        )
    keys = ("iscrowd", "category_id", "segmentation", "keypoints", *extra_annotation_keys)
    return [
        {
            "file_name": str(record.file_name),
            "height": record.height,
            "width": record.width,
            "image_id": record.image_id,
            "annotations": [_kept(annotation, keys) for annotation in record.annotations],
        }
        for record in dataset.images
    ]


def _kept(annotation: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    kept = {key: annotation[key] for key in keys if key in annotation}
    if "keypoints" in kept:
        kept["keypoints"] = [
            number if place % 3 == 2 else number + 0.5 for place, number in enumerate(kept["keypoints"])
        ]
    return {**kept, "bbox": annotation["bbox"], "bbox_mode": BoxMode.XYWH_ABS}
