"""Pascal VOC's annotations (Everingham et al. 2010) as records of ``DatasetCatalog``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detexport.data.catalog import DatasetCatalog, MetadataCatalog
from detexport.errors import DataError
from detexport.structures import BoxMode

CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Classes of VOC 2007 to 2012."""


def load_voc_instances(
    dirname: str | Path, split: str, class_names: Sequence[str] = CLASS_NAMES
) -> list[dict[str, Any]]:
    """Read the boxes of a split.

    Args:
        dirname: folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: name of a file of image ids in ``ImageSets/Main``, such as ``"train"``.
        class_names: name of each class index.

    Returns:
        one record per image in the order of the file; boxes are XYXY in px from the image's corner.

    Raises:
        DataError: a file is missing or no XML, or has a class that is not in ``class_names``.
    """
    root = Path(dirname)
    list_file = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        ids = list_file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError("the split does not exist", got=str(error), expected=str(list_file)) from error
    return [_record(root, image_id, list(class_names)) for image_id in ids]


def _record(root: Path, image_id: str, class_names: list[str]) -> dict[str, Any]:
    path = root / "Annotations" / f"{image_id}.xml"
    try:
        tree = ElementTree.parse(path).getroot()
        size = {side: int(tree.findtext(f"size/{side}", "")) for side in ("height", "width")}
        annotations = [_annotation(entry, class_names) for entry in tree.findall("object")]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise DataError(
            f"{path} is not an annotation of Pascal VOC", got=error, expected="XML with size and objects"
        ) from error
    file_name = str(root / "JPEGImages" / f"{image_id}.jpg")
    return {"file_name": file_name, "image_id": image_id, **size, "annotations": annotations}


def _annotation(entry: ElementTree.Element, class_names: list[str]) -> dict[str, Any]:
    box = [float(entry.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
    # The first and last pixels count from 1: the corner of the first pixel is one less.
    return {
        "category_id": class_names.index(entry.findtext("name", "")),
        "bbox": [box[0] - 1, box[1] - 1, box[2], box[3]],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def register_pascal_voc(
    name: str, dirname: str | Path, split: str, year: int, class_names: Sequence[str] = CLASS_NAMES
) -> None:
    """Register a split of Pascal VOC: see ``load_voc_instances``.

    Args:
        name: of the data set, in both catalogs.
        dirname: see ``load_voc_instances``.
        split: see ``load_voc_instances``.
        year: 2007 or 2012, in the metadata.
        class_names: name of each class index.
    """
    DatasetCatalog.register(name, lambda: load_voc_instances(dirname, split, class_names))
    MetadataCatalog.get(name).set(
        thing_classes=list(class_names),
        dirname=str(dirname),
        year=year,
        split=split,
        evaluator_type="pascal_voc",
    )
