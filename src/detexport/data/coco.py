"""Data sets in COCO's format: reading of one split, with class indices.

Class i is the i-th smallest category id, unless classes are selected by name: then it is the i-th name.
``read_coco`` is used by the command line, the pipeline and ``DatasetCatalog``.

The standard layout of a data set's folder::

    images/{train,val}/*                          images, 8 bits per channel
    annotations/instances_{train,val}.json        COCO's instance annotations
    annotations/keypoints_{train,val}.json        the same with keypoints, optional
    annotations/panoptic_{train,val}.json         COCO's panoptic annotations, optional
    panoptic_{train,val}/*.png                    ids of their segments
    semantic_{train,val}/*.png                    class of each pixel: 0 things, 1.. stuff, 255 unlabelled
    dataset.json                                  name, class names, number of images: for the pipeline only

The layout of COCO's downloads is accepted, too: ``val2017`` or ``val2014`` for ``val``; folders of images
next to ``annotations`` instead of in ``images``; ``person_keypoints_*.json``; ids of segments in
``annotations/panoptic_*``; and detectron2's ``panoptic_stuff_*`` for ``semantic_*``.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detexport.contract import checked_names
from detexport.data.annotations import ImageId, read_annotations
from detexport.data.images import (
    ChannelOrder,
    check_image_size,
    decode_image,
    read_image,
    read_image_size,
    read_label_map,
    read_segment_map,
)
from detexport.errors import DataError, MissingAnnotationsError, listed
from detexport.system.progress import progress_bar

__all__ = [
    "AnnotationKind",
    "ChannelOrder",
    "CocoDataset",
    "CocoRecord",
    "check_image_sizes",
    "check_images_exist",
    "choose_categories",
    "decode_image",
    "find_annotations",
    "find_image_folder",
    "load_coco",
    "panoptic_folder",
    "read_annotations",
    "read_coco",
    "read_image",
    "read_image_size",
    "read_label_map",
    "read_record",
    "read_segment_map",
    "read_sem_seg",
    "records_of",
]

AnnotationKind = Literal["instances", "keypoints"]

FILE_PREFIXES = {
    "instances": ("instances",),
    "keypoints": ("keypoints", "person_keypoints"),
    "panoptic": ("panoptic",),
}
STUFF_FOLDERS = ("semantic", "panoptic_stuff")
YEARS = ("2017", "2014")


@dataclass(frozen=True)
class CocoRecord:
    """One image with its annotations.

    Args:
        image_id: COCO's id of the image.
        file_name: path of the image.
        height: in px.
        width: in px.
        annotations: in COCO's form (``bbox`` is x, y, width, height in px), except that ``category_id``
            is an index into the data set's ``class_names``; crowds (``iscrowd`` 1) are included.
        sem_seg_file_name: path of the PNG with the class of each pixel; it need not exist.
    """

    image_id: ImageId
    file_name: Path
    height: int
    width: int
    annotations: tuple[dict[str, Any], ...]
    sem_seg_file_name: Path | None = None


@dataclass(frozen=True)
class CocoDataset:
    """One split of a data set.

    Args:
        class_names: name of each class index.
        category_ids: COCO's category id of each class index.
        images: all images of the split, by id; some may have no annotation.
        annotation_file: file that the split was read from.
        panoptic_file: COCO's panoptic annotations of the split; the file need not exist.
        keypoint_flip: for each keypoint the index of its counterpart after a horizontal flip; empty if the
            categories do not name their keypoints.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[ImageId, ...]
    images: tuple[CocoRecord, ...]
    annotation_file: Path
    panoptic_file: Path
    keypoint_flip: tuple[int, ...] = ()


def records_of(dataset: CocoDataset, image_ids: tuple[ImageId, ...]) -> list[CocoRecord]:
    """Return the records of the given image ids.

    Raises:
        DataError: the data set lacks an image.
    """
    records = {record.image_id: record for record in dataset.images}
    lacking = [image_id for image_id in image_ids if image_id not in records]
    if lacking:
        raise DataError(
            f"{dataset.annotation_file} lacks images that the eager model was evaluated on",
            got=f"no images with the ids {listed(lacking)}",
            expected="the data set of the reference",
            remedy="run the stage `reference` again",
        )
    return [records[image_id] for image_id in image_ids]


def load_coco(
    folder: Path,
    split: str,
    categories: Sequence[str] | None = None,
    kind: AnnotationKind = "instances",
) -> CocoDataset:
    """Read one split of a folder in the standard layout or in that of COCO's downloads.

    Args:
        folder: folder of the data set.
        split: ``"train"`` or ``"val"``.
        categories: names of the classes to keep, in the order of their indices; None keeps all, by id.
        kind: annotations to read; ``"keypoints"`` are instances with keypoints.

    Raises:
        DataError: the annotation file is missing or is not COCO's, or lacks a category, or an image in it
            does not exist.
    """
    folder = Path(folder)
    annotation_file = find_annotations(folder, split, kind)
    if kind == "keypoints" and not annotation_file.exists():
        raise MissingAnnotationsError(
            f"the data set {folder} has no keypoints",
            got=f"no file {annotation_file}",
            expected="COCO's keypoint annotations, keypoints_*.json or person_keypoints_*.json",
            remedy="choose other data, or a model without keypoints",
        )
    image_folder = find_image_folder(folder, split)
    dataset = read_coco(annotation_file, image_folder, categories)
    check_images_exist(dataset)
    stuff = _existing([folder / f"{word}_{name}" for name in _names(split) for word in STUFF_FOLDERS])
    return replace(
        dataset,
        images=tuple(
            replace(record, sem_seg_file_name=_beside(record.file_name, image_folder, stuff))
            for record in dataset.images
        ),
        panoptic_file=find_annotations(folder, split, "panoptic"),
        keypoint_flip=dataset.keypoint_flip if kind == "keypoints" else (),
    )


def require_images(dataset: CocoDataset) -> CocoDataset:
    """Return a split that has an image.

    Raises:
        DataError: it has none.
    """
    if not dataset.images:
        raise DataError(
            f"{dataset.annotation_file} lists no image",
            expected="at least one validation image",
            remedy="give a data set with images/val and their annotations",
        )
    return dataset


def read_coco(
    annotation_file: Path, image_folder: Path, categories: Sequence[str] | None = None
) -> CocoDataset:
    """Read COCO's instance or keypoint annotations; the images are not opened.

    Args:
        annotation_file: see ``detexport.data.annotations`` for the format.
        image_folder: folder that its file names are relative to.
        categories: see ``load_coco``.

    Raises:
        DataError: the file is missing or is not COCO's, or lacks a category.
    """
    value = read_annotations(annotation_file)
    value["categories"] = choose_categories(value["categories"], categories, annotation_file)
    return to_dataset(value, annotation_file, image_folder)


def to_dataset(
    value: dict[str, list[dict[str, Any]]], annotation_file: Path, image_folder: Path
) -> CocoDataset:
    """Replace category ids by class indices, in the order of the categories, and group annotations by image.

    Args:
        value: result of ``read_annotations``; annotations of other categories are left out.
        annotation_file: file that ``value`` was read from.
        image_folder: folder that its file names are relative to.
    """
    categories = value["categories"]
    index_of = {category["id"]: index for index, category in enumerate(categories)}
    by_image: dict[ImageId, list[dict[str, Any]]] = defaultdict(list)
    for annotation in value["annotations"]:
        if annotation["category_id"] in index_of:
            renumbered = {**annotation, "category_id": index_of[annotation["category_id"]]}
            by_image[annotation["image_id"]].append(renumbered)
    return CocoDataset(
        class_names=tuple(category["name"] for category in categories),
        category_ids=tuple(index_of),
        images=tuple(
            CocoRecord(
                image_id=image["id"],
                file_name=Path(image_folder) / image["file_name"],
                height=image["height"],
                width=image["width"],
                annotations=tuple(by_image[image["id"]]),
            )
            for image in value["images"]
        ),
        annotation_file=Path(annotation_file),
        panoptic_file=Path(annotation_file).with_name("panoptic.json"),
        keypoint_flip=keypoint_flip(keypoint_names(categories)),
    )


def _names(split: str) -> list[str]:
    return [split, *(split + year for year in YEARS)]


def find_annotations(folder: Path, split: str, kind: str) -> Path:
    """Return the path of a split's annotations; if there are none, the path in the standard layout.

    Args:
        folder: folder of the data set.
        split: ``"train"`` or ``"val"``.
        kind: ``"instances"``, ``"keypoints"`` or ``"panoptic"``.

    Raises:
        DataError: there are files of two years, and none without a year.
    """
    paths = [
        [Path(folder) / "annotations" / f"{prefix}_{name}.json" for prefix in FILE_PREFIXES[kind]]
        for name in _names(split)
    ]
    found = [path for of_name in paths for path in of_name if os.path.lexists(path)]
    if len({path.stem[-4:] for path in found}) > 1 and found[0] not in paths[0]:
        raise DataError(
            f"the split {split} of {folder} is ambiguous",
            got=listed(found),
            expected="the annotations of one year",
            remedy=f"keep the annotations of one year in the folder, or name them {paths[0][0].name}",
        )
    return found[0] if found else paths[0][0]


def find_image_folder(folder: Path, split: str) -> Path:
    """Return the folder of a split's images; if there is none, that of the standard layout."""
    return _existing(
        [path for name in _names(split) for path in (Path(folder) / "images" / name, Path(folder) / name)]
    )


def _existing(folders: Sequence[Path]) -> Path:
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def panoptic_folder(panoptic_file: Path) -> Path:
    """Return the folder of the PNGs of a panoptic annotation file."""
    return _existing(
        [parent / panoptic_file.stem for parent in (panoptic_file.parent.parent, panoptic_file.parent)]
    )


def _beside(file: Path, image_folder: Path, folder: Path) -> Path:
    """Return the path of the PNG in ``folder`` with the relative path of an image in its folder."""
    inside = file.is_relative_to(image_folder) and ".." not in file.parts
    name = file.relative_to(image_folder) if inside else Path(file.name)
    return (folder / name).with_suffix(".png")


def keypoint_names(categories: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of keypoints that all categories share; empty if there are none or they differ."""
    names = {tuple(category.get("keypoints") or ()) for category in categories}
    return names.pop() if len(names) == 1 else ()


def keypoint_flip(names: Sequence[str]) -> tuple[int, ...]:
    """Return for each keypoint the index of its counterpart after a horizontal flip: left for right."""
    swap = {"left": "right", "right": "left"}
    mirrored = ["".join(swap.get(part, part) for part in re.split("(left|right)", name)) for name in names]
    return tuple(
        names.index(other if other in names else name) for name, other in zip(names, mirrored, strict=True)
    )


def choose_categories(
    there: Sequence[dict[str, Any]], names: Sequence[str] | None, path: Path
) -> list[dict[str, Any]]:
    """Select categories by name, in the order of the names; None selects all.

    If several categories have one name, the name must be given as often, and selects them in their order.

    Args:
        there: a file's categories, by ascending id.
        names: of the categories to keep.
        path: of the file, for errors.

    Raises:
        ConfigError: the names are not a list of strings.
        DataError: the file lacks a category, or the number of categories of a name differs.
    """
    if names is None:
        return list(there)
    names = checked_names(names, "the categories to keep")
    of_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for category in there:
        of_name[category["name"]].append(category)
    asked = Counter(names)
    wrong = [name for name in asked if len(of_name.get(name, ())) != asked[name]]
    if wrong or not names:
        has = listed((_times(name, len(same)) for name, same in of_name.items()), 20)
        raise DataError(
            f"{path} does not have the selected categories",
            got=listed(_times(name, asked[name]) for name in wrong) or "an empty list",
            expected=f"different names of {has}",
            remedy="change data.categories, or --class-names on the command line",
        )
    return [of_name[name].pop(0) for name in names]


def _times(name: str, count: int) -> str:
    return name if count == 1 else f"{name} ({count} times)"


def check_images_exist(dataset: CocoDataset) -> None:
    """Check that all images of a data set exist.

    Raises:
        DataError: images are missing.
    """
    missing = [image.file_name for image in dataset.images if not os.path.isfile(image.file_name)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(dataset.images)} images of {dataset.annotation_file} are missing",
            got=f"no file {missing[0]}",
            expected="every file_name below the split's folder of images, or an absolute path",
            remedy="check the image folder of the split, or complete it",
        )


def check_image_sizes(dataset: CocoDataset) -> None:
    """Check that the sizes in the headers of all images are those in their records.

    Raises:
        DataError: an image cannot be read, or has another size than its record.
    """
    for record in progress_bar(
        dataset.images, desc="checking images", unit="image", mininterval=1.0, delay=1.0
    ):
        check_image_size(record.file_name, read_image_size(record.file_name), (record.height, record.width))


def read_record(record: CocoRecord, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Read the image of a record, rotated upright by its EXIF orientation.

    Returns:
        uint8 (3, H, W) in ``channel_order``.

    Raises:
        DataError: the image cannot be read, or has another size than in the record, so that its annotations
            would not fit.
    """
    image = read_image(record.file_name, channel_order)
    check_image_size(record.file_name, image.shape[1:], (record.height, record.width))
    return image


def read_sem_seg(record: CocoRecord) -> np.ndarray:
    """Read the class of each pixel of an image, int64 (H, W).

    Raises:
        DataError: the file does not exist, or has another size than the image.
    """
    path = record.sem_seg_file_name
    if path is None or not path.is_file():
        raise MissingAnnotationsError(
            f"the image {record.file_name} has no semantic segmentation",
            got=f"no file {path}",
            expected="a PNG with the class of each pixel, in semantic_* or detectron2's panoptic_stuff_*",
            remedy="choose other data, or a model without a semantic head",
        )
    classes = read_label_map(path)
    check_image_size(path, classes.shape, (record.height, record.width))
    return classes.astype(np.int64)
