"""COCO's panoptic annotations as records of ``DatasetCatalog``."""

from pathlib import Path
from typing import Any

from detexport.data.annotations import read_panoptic_annotations
from detexport.data.catalog import DatasetCatalog, MetadataCatalog
from detexport.data.datasets.coco import load_coco_json, load_sem_seg
from detexport.errors import DataError


def load_coco_panoptic_json(
    json_file: str | Path, image_dir: str | Path, gt_dir: str | Path, meta: dict[str, Any]
) -> list[dict[str, Any]]:
    """Read COCO's panoptic annotations.

    Args:
        json_file: the annotations.
        image_dir: folder of the images, JPEG files named as the maps.
        gt_dir: folder of the panoptic maps, PNG files.
        meta: ``thing_dataset_id_to_contiguous_id`` and ``stuff_dataset_id_to_contiguous_id``.

    Returns:
        one record per image: ``file_name``, ``image_id``, ``pan_seg_file_name`` and ``segments_info``, whose
        entries have ``category_id``, the contiguous id, and ``isthing``.

    Raises:
        DataError: the file is missing or is not COCO's, or a category has no contiguous id.
    """
    things, stuff = meta["thing_dataset_id_to_contiguous_id"], meta["stuff_dataset_id_to_contiguous_id"]

    def contiguous(segment: dict[str, Any]) -> dict[str, Any]:
        category = segment["category_id"]
        if category not in things and category not in stuff:
            raise DataError(
                f"a category of {json_file} has no contiguous id",
                got=category,
                expected=f"one of {sorted({*things, *stuff})}",
                remedy="complete the metadata of the data set",
            )
        is_thing = category in things
        return {**segment, "category_id": (things if is_thing else stuff)[category], "isthing": is_thing}

    return [
        {
            "file_name": str(Path(image_dir) / Path(annotation["file_name"]).with_suffix(".jpg")),
            "image_id": annotation["image_id"],
            "pan_seg_file_name": str(Path(gt_dir) / annotation["file_name"]),
            "segments_info": [contiguous(segment) for segment in annotation["segments_info"]],
        }
        for annotation in read_panoptic_annotations(Path(json_file))["annotations"]
    ]


def register_coco_panoptic(
    name: str,
    metadata: dict[str, Any],
    image_root: str | Path,
    panoptic_root: str | Path,
    panoptic_json: str | Path,
    instances_json: str | Path | None = None,
) -> None:
    """Register a panoptic data set in COCO's format: see ``load_coco_panoptic_json``.

    Args:
        name: of the data set, in both catalogs.
        metadata: further attributes of the metadata, with the contiguous ids.
        image_root: folder of the images.
        panoptic_root: folder of the panoptic maps.
        panoptic_json: COCO's panoptic annotations.
        instances_json: COCO's instance annotations, for the evaluation of instances.
    """
    DatasetCatalog.register(
        name, lambda: load_coco_panoptic_json(panoptic_json, image_root, panoptic_root, metadata)
    )
    MetadataCatalog.get(name).set(
        panoptic_root=str(panoptic_root),
        image_root=str(image_root),
        panoptic_json=str(panoptic_json),
        json_file=None if instances_json is None else str(instances_json),
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        label_divisor=1000,
        **metadata,
    )


def register_coco_panoptic_separated(
    name: str,
    metadata: dict[str, Any],
    image_root: str | Path,
    panoptic_root: str | Path,
    panoptic_json: str | Path,
    sem_seg_root: str | Path,
    instances_json: str | Path,
) -> None:
    """Register a panoptic data set by its instances and its stuff, for ``PanopticFPN``.

    Its records are those of COCO's instances with ``sem_seg_file_name``. They are registered as
    ``{name}_separated``, the stuff alone as ``{name}_stuffonly``.

    Args:
        name: of the data set.
        metadata: further attributes of the metadata.
        image_root: folder of the images.
        panoptic_root: folder of the panoptic maps.
        panoptic_json: COCO's panoptic annotations.
        sem_seg_root: folder of the label maps; class 0 is all things.
        instances_json: COCO's instance annotations.
    """
    separated, stuff = f"{name}_separated", f"{name}_stuffonly"
    paths = {
        "panoptic_root": str(panoptic_root),
        "image_root": str(image_root),
        "panoptic_json": str(panoptic_json),
        "sem_seg_root": str(sem_seg_root),
        "json_file": str(instances_json),
    }
    DatasetCatalog.register(
        separated,
        lambda: merge_to_panoptic(
            load_coco_json(instances_json, image_root, separated), load_sem_seg(sem_seg_root, image_root)
        ),
    )
    MetadataCatalog.get(separated).set(
        evaluator_type="coco_panoptic_seg", ignore_label=255, **paths, **metadata
    )
    DatasetCatalog.register(stuff, lambda: load_sem_seg(sem_seg_root, image_root))
    MetadataCatalog.get(stuff).set(
        sem_seg_root=str(sem_seg_root),
        image_root=str(image_root),
        evaluator_type="sem_seg",
        ignore_label=255,
        **metadata,
    )


def merge_to_panoptic(
    detection_dicts: list[dict[str, Any]], sem_seg_dicts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the records of instances with the label maps of the same images.

    Raises:
        DataError: an image has no label map.
    """
    map_of = {record["file_name"]: record["sem_seg_file_name"] for record in sem_seg_dicts}
    missing = [record["file_name"] for record in detection_dicts if record["file_name"] not in map_of]
    if missing:
        raise DataError("an image has no label map", got=missing[0], expected="a label map for each image")
    return [{**record, "sem_seg_file_name": map_of[record["file_name"]]} for record in detection_dicts]
