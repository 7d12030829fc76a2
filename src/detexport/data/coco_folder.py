"""Conversion of the user's COCO folder to the standard layout."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from detexport.contract import checked_names
from detexport.data.annotations import read_annotations
from detexport.data.coco import (
    CocoDataset,
    check_image_sizes,
    check_images_exist,
    choose_categories,
    keypoint_names,
    to_dataset,
)
from detexport.errors import ConfigError, DataError, listed
from detexport.system.atomic import atomic_dir
from detexport.system.files import write_json

SPLITS = ("train", "val")


@dataclass(frozen=True)
class CocoFolder:
    """A folder of images with COCO instance annotations, in any layout.

    Annotations, categories and the sizes of all images are checked before anything is written.

    Args:
        source: the folder.
        name: name of the data set.
        splits: for ``"val"`` and optionally ``"train"``, ``images``, a folder, and ``annotations``, a file,
            both relative to ``source``; None for no split.
        categories: names of the categories to keep, in the order of the class indices; they are renumbered
            in this order. None keeps all, with their ids.
        max_images: maximum number of images per split, those with the smallest ids; None keeps all.

    Raises:
        ConfigError: the splits are not ``val`` and optionally ``train`` with ``images`` and ``annotations``,
            or the categories are not strings.
    """

    source: str
    name: str
    splits: Mapping[str, Mapping[str, str] | None]
    categories: Sequence[str] | None = None
    max_images: int | None = None

    def __post_init__(self) -> None:
        """Check the form of the options."""
        given = {split: sorted(paths) for split, paths in self._paths().items()}
        if "val" not in given or any(
            split not in SPLITS or keys != ["annotations", "images"] for split, keys in given.items()
        ):
            raise ConfigError(
                "the splits of the COCO folder are not complete",
                got=given,
                expected="val, and optionally train, each with images and annotations",
                remedy="change data.dataset.splits",
            )
        if self.categories is not None:
            checked_names(self.categories, "data.categories")
        if self.max_images is not None and self.max_images < 1:
            raise ConfigError(
                "max_images leaves no image",
                got=self.max_images,
                expected="at least 1, or null for all",
                remedy="change data.dataset.max_images",
            )

    def write(self, folder: Path) -> None:
        """Write the standard layout to ``folder``, atomically.

        Images are hard links if the file system supports them, else copies.

        Raises:
            DataError: an annotation file is missing, is not COCO's or lacks a category, or an image is
                missing, cannot be read, or has another size than in the annotations.
        """
        read = {split: self._read_split(paths) for split, paths in self._paths().items()}
        names = {split: dataset.class_names for split, (dataset, _) in read.items()}
        if any(other != names["val"] for other in names.values()):
            raise DataError(
                "the splits of the COCO folder do not have the same categories",
                got="; ".join(f"{split}: {listed(of_split, 20)}" for split, of_split in names.items()),
                expected="the same names in the same order",
                remedy="list the categories to keep in data.categories",
            )
        with atomic_dir(Path(folder)) as partial:
            for split, (dataset, value) in read.items():
                for record, image in zip(dataset.images, value["images"], strict=True):
                    _link(record.file_name, partial / "images" / split / image["file_name"])
                (partial / "annotations").mkdir(exist_ok=True)
                annotations = json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n"
                for kind in _kinds(value):
                    path = partial / f"annotations/{kind}_{split}.json"
                    path.write_text(annotations, encoding="utf-8")
            write_json(partial / "dataset.json", self._description(read))

    def _description(self, read: Mapping[str, tuple[CocoDataset, dict[str, Any]]]) -> dict[str, Any]:
        dataset, value = read["val"]
        keypoints = keypoint_names(value["categories"])
        return {
            "images": {split: len(of_split.images) for split, (of_split, _) in read.items()},
            "keypoint_flip": {
                name: keypoints[flipped]
                for name, flipped in zip(keypoints, dataset.keypoint_flip, strict=True)
                if keypoints[flipped] != name
            },
            "keypoints": list(keypoints),
            "name": self.name,
            "stuff": [],
            "things": list(dataset.class_names),
        }

    def _paths(self) -> dict[str, Mapping[str, str]]:
        return {split: paths for split, paths in self.splits.items() if paths is not None}

    def _read_split(self, paths: Mapping[str, str]) -> tuple[CocoDataset, dict[str, Any]]:
        """Return the split, and the content of its new annotation file."""
        image_folder, annotation_file = (Path(self.source, paths[key]) for key in ("images", "annotations"))
        value = read_annotations(annotation_file)
        value["categories"] = choose_categories(value["categories"], self.categories, annotation_file)
        value["images"] = value["images"][: self.max_images]
        kept_images, kept_categories = ({one["id"] for one in value[key]} for key in ("images", "categories"))
        value["annotations"] = [
            annotation
            for annotation in value["annotations"]
            if annotation["image_id"] in kept_images and annotation["category_id"] in kept_categories
        ]
        dataset = to_dataset(value, annotation_file, image_folder)
        check_images_exist(dataset)
        check_image_sizes(dataset)
        value["images"] = [
            {**image, "file_name": _name_inside(image["file_name"])} for image in value["images"]
        ]
        return dataset, value if self.categories is None else _in_order(value)


def _in_order(value: dict[str, Any]) -> dict[str, Any]:
    """Renumber the categories by their order, from which readers of the file take the class indices."""
    new_id = {category["id"]: number for number, category in enumerate(value["categories"], start=1)}
    return {
        "images": value["images"],
        "annotations": [{**one, "category_id": new_id[one["category_id"]]} for one in value["annotations"]],
        "categories": [{**one, "id": new_id[one["id"]]} for one in value["categories"]],
    }


def _kinds(value: dict[str, Any]) -> tuple[str, ...]:
    """Return the kinds of annotations in a file; keypoint annotations are instance annotations, too."""
    complete = value["annotations"] and all("keypoints" in annotation for annotation in value["annotations"])
    return ("instances", "keypoints") if complete else ("instances",)


def _name_inside(file_name: str) -> str:
    """Return the name of an image in the standard layout; one outside the split's folder gets a folder."""
    path = PurePath(file_name)
    if not path.is_absolute() and ".." not in path.parts:
        return path.as_posix()
    folder = hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
    return f"outside-{folder}/{path.name}"


def _link(source: Path, target: Path) -> None:
    if target.exists():  # two images may refer to one file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
