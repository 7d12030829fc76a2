"""COCO annotation files as records of ``DatasetCatalog``.

A record is one dict per image: ``file_name``, ``height`` and ``width`` in px, ``image_id`` and
``annotations``, a list of dicts with ``bbox`` and its ``bbox_mode``, ``category_id`` (the class index),
``iscrowd`` and, where the file has them, ``segmentation`` (polygons or RLE) and ``keypoints`` (x, y,
visibility, ..., in px from the image's corner). It may also have ``sem_seg_file_name`` and proposals.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.data.catalog import DatasetCatalog, MetadataCatalog
from detexport.data.coco import read_coco
from detexport.data.segmentation import annotation_mask
from detexport.errors import DataError
from detexport.structures import BoxMode
from detexport.system.files import write_json

logger = logging.getLogger(__name__)


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

    With a ``dataset_name``, ``category_id`` of the annotations is the class index, in the order of the
    category ids; otherwise it is the id in the file. Keypoints, which are indices of pixels in the file, are
    moved to the pixels' centres. An annotation whose polygons are all invalid is left out with a warning;
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
    id_of = dataset.category_ids if dataset_name is None else range(len(dataset.category_ids))
    keys = ("iscrowd", "category_id", "segmentation", "keypoints", *extra_annotation_keys)
    return [
        {
            "file_name": str(record.file_name),
            "height": record.height,
            "width": record.width,
            "image_id": record.image_id,
            "annotations": [
                {**_kept(annotation, keys), "category_id": id_of[annotation["category_id"]]}
                for annotation in record.annotations
            ],
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


def load_sem_seg(
    gt_root: str | Path, image_root: str | Path, gt_ext: str = "png", image_ext: str = "jpg"
) -> list[dict[str, Any]]:
    """Find images and their label maps, paired by their relative paths without extensions.

    Args:
        gt_root: folder of the label maps, images with the class of each pixel.
        image_root: folder of the images.
        gt_ext: extension of the label maps.
        image_ext: extension of the images.

    Returns:
        one record per label map, with ``file_name`` and ``sem_seg_file_name``.

    Raises:
        DataError: there is no label map, or a map has no image.
    """
    root, images = Path(gt_root), Path(image_root)
    maps = sorted(root.rglob(f"*.{gt_ext}"))
    pairs = [(images / path.relative_to(root).with_suffix(f".{image_ext}"), path) for path in maps]
    missing = [image for image, _ in pairs if not image.is_file()]
    if missing or not pairs:
        raise DataError(
            "there are label maps without images" if missing else "there is no label map",
            got=str(missing[0]) if missing else f"no *.{gt_ext} in {root}",
            expected=f"an image in {images} for each label map in {root}",
        )
    return [{"file_name": str(image), "sem_seg_file_name": str(path)} for image, path in pairs]


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """Return a registered data set in COCO's format.

    Args:
        dataset_name: in both catalogs; the metadata has ``thing_classes``, and
            ``thing_dataset_id_to_contiguous_id`` if the category ids are not the class indices.

    Returns:
        ``images``, ``annotations`` (``bbox`` is x, y, width, height; a rotated box keeps its five
        values) and ``categories``.

    Raises:
        DataError: the data set is unknown.
    """
    metadata = MetadataCatalog.get(dataset_name)
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    id_of = {index: category for category, index in ids.items()} if ids else {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(DatasetCatalog.get(dataset_name)):
        image_id = record.get("image_id", number)
        size = {"height": int(record["height"]), "width": int(record["width"])}
        images.append({"id": image_id, "file_name": str(record["file_name"]), **size})
        for annotation in record.get("annotations", []):
            category = int(annotation["category_id"])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": id_of.get(category, category),
                    **_in_coco_form(annotation, record["height"], record["width"]),
                }
            )
    categories = [
        {"id": id_of.get(index, index), "name": name} for index, name in enumerate(metadata.thing_classes)
    ]
    return {
        "info": {},
        "licenses": None,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def convert_to_coco_json(dataset_name: str, output_file: str | Path, allow_cached: bool = True) -> None:
    """Write a registered data set in COCO's format: see ``convert_to_coco_dict``.

    Args:
        dataset_name: in both catalogs.
        output_file: JSON file; written atomically.
        allow_cached: keep the file if it exists.
    """
    path = Path(output_file)
    if path.is_file() and allow_cached:
        logger.info("%s exists and is not written again", path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, convert_to_coco_dict(dataset_name))


def _in_coco_form(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    mode = BoxMode(annotation["bbox_mode"])
    rotated = mode == BoxMode.XYWHA_ABS
    bbox = BoxMode.convert(list(annotation["bbox"]), mode, mode if rotated else BoxMode.XYWH_ABS)
    form: dict[str, Any] = {
        "bbox": [round(float(side), 3) for side in bbox],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "area": float(bbox[2] * bbox[3]),
    }
    segmentation = annotation.get("segmentation")
    if segmentation:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
            segmentation = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
        elif isinstance(segmentation, list):
            segmentation = [[float(number) for number in polygon] for polygon in segmentation]
        form["segmentation"] = segmentation
        form["area"] = float(annotation_mask(segmentation, height, width).sum())
    keypoints = annotation.get("keypoints")
    if keypoints is not None and len(keypoints):
        flat = [float(number) for number in keypoints]
        # In COCO's files keypoints are indices of pixels.
        form["keypoints"] = [n if place % 3 == 2 else n - 0.5 for place, n in enumerate(flat)]
        form["num_keypoints"] = sum(visibility > 0 for visibility in flat[2::3])
    return form
