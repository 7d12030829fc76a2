"""LVIS annotation files (Gupta et al. 2019) as records of ``DatasetCatalog``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.data.catalog import DatasetCatalog, MetadataCatalog
from detexport.errors import DataError
from detexport.structures import BoxMode
from detexport.system.files import read_json


def load_lvis_json(
    json_file: str | Path,
    image_root: str | Path,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Read LVIS annotations. Class indices follow the order of the category ids.

    Args:
        json_file: the annotations.
        image_root: folder of the images; where an image has no ``file_name``, COCO's layout below it.
        dataset_name: the class names and ids are stored in the metadata of this data set.
        extra_annotation_keys: further keys of the annotations to keep.

    Returns:
        one record per image, by id, with ``not_exhaustive_category_ids`` and ``neg_category_ids``.

    Raises:
        DataError: the file is missing or is not LVIS's.
    """
    content = read_json(Path(json_file))
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise DataError(
            f"{json_file} is not LVIS's",
            got=f"no {', '.join(missing)}",
            expected="images, annotations, categories",
        )
    categories = sorted(content["categories"], key=lambda category: category["id"])
    index_of = {category["id"]: index for index, category in enumerate(categories)}
    if dataset_name is not None:
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[category.get("synonyms", [category["name"]])[0] for category in categories],
            thing_dataset_id_to_contiguous_id=index_of,
        )
    of_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        kept = {key: annotation[key] for key in extra_annotation_keys if key in annotation}
        of_image[annotation["image_id"]].append(
            {
                **kept,
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": index_of[annotation["category_id"]],
                "segmentation": annotation["segmentation"],
            }
        )
    return [
        {
            "file_name": str(Path(image_root) / _file_name(image)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
            "neg_category_ids": image.get("neg_category_ids", []),
            "annotations": of_image[image["id"]],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    ]


def _file_name(image: dict[str, Any]) -> str:
    """Return the path below the folder: LVIS names an image by its address, which ends in split/file."""
    return image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])


def register_lvis_instances(
    name: str, metadata: dict[str, Any], json_file: str | Path, image_root: str | Path
) -> None:
    """Register a data set in LVIS's format; the file is read by ``DatasetCatalog.get``.

    Args:
        name: of the data set, in both catalogs.
        metadata: further attributes of the metadata.
        json_file: the annotations.
        image_root: folder of the images.
    """
    DatasetCatalog.register(name, lambda: load_lvis_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=str(json_file), image_root=str(image_root), evaluator_type="lvis", **metadata
    )
