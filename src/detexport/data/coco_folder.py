"""The user's own COCO folder, brought into the standard layout."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detexport.data.coco import check_images_exist, choose_categories, read_annotations, read_image_size
from detexport.errors import ConfigError, DataError
from detexport.files import atomic_dir, write_json

SPLITS = ("train", "val")


@dataclass(frozen=True)
class CocoFolder:
    """A folder of images with COCO instance annotations, wherever it keeps them.

    Everything is checked before anything is written: annotations, categories, and that each image is one of
    the size that its annotation says.

    Args:
        source: the folder.
        name: name of the data set.
        splits: for ``"val"``, and for ``"train"`` if there is one (it may be None), ``images``, a folder, and
            ``annotations``, a file, both relative to ``source``.
        categories: names of the categories to keep, in the order of the class indices; None keeps all, by
            id.
        max_images: at most so many images a split, those with the smallest ids; None keeps all.

    Raises:
        ConfigError: the splits are not ``val`` and perhaps ``train`` with ``images`` and ``annotations``.
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
                expected="val, and perhaps train, each with images and annotations",
                remedy="change data.dataset.splits",
            )
        if self.max_images is not None and self.max_images < 1:
            raise ConfigError(
                "max_images leaves no image",
                got=self.max_images,
                expected="at least 1, or null for all",
                remedy="change data.dataset.max_images",
            )

    def write(self, folder: Path) -> None:
        """Write the standard layout into ``folder``, which appears when it is whole.

        Images are hard links where the file system allows it, else copies.

        Raises:
            DataError: an annotation file is missing, is not COCO's or lacks a category, or an image is
                missing, is not one, or has another size than its annotation says.
        """
        read = {split: self._read_split(paths) for split, paths in self._paths().items()}
        names = {split: [c["name"] for c in value["categories"]] for split, (_, value) in read.items()}
        if any(other != names["val"] for other in names.values()):
            raise DataError(
                "the splits of the COCO folder do not have the same categories",
                got=names,
                expected="the same names in the same order",
                remedy="name those to keep in data.categories",
            )
        with atomic_dir(Path(folder)) as partial:
            for split, (image_folder, value) in read.items():
                for image in value["images"]:
                    _link(image_folder / image["file_name"], partial / "images" / split / image["file_name"])
                (partial / "annotations").mkdir(exist_ok=True)
                annotations = json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n"
                (partial / f"annotations/instances_{split}.json").write_text(annotations, encoding="utf-8")
            description = {
                "images": {split: len(value["images"]) for split, (_, value) in read.items()},
                "keypoint_flip": {},
                "keypoints": [],
                "name": self.name,
                "stuff": [],
                "things": names["val"],
            }
            write_json(partial / "dataset.json", description)

    def _paths(self) -> dict[str, Mapping[str, str]]:
        return {split: paths for split, paths in self.splits.items() if paths is not None}

    def _read_split(self, paths: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """The image folder and what to write into the annotation file."""
        image_folder, annotation_file = (Path(self.source, paths[key]) for key in ("images", "annotations"))
        value = read_annotations(annotation_file)
        value["categories"].sort(key=lambda category: category["id"])
        categories = choose_categories(value, self.categories, annotation_file)
        images = sorted(value["images"], key=lambda image: image["id"])[: self.max_images]
        check_images_exist(images, image_folder, annotation_file)
        for image in tqdm(images, desc=f"checking {paths['images']}", unit="image", mininterval=1.0):
            _check_size(image_folder / image["file_name"], (image["height"], image["width"]))
        kept_images, kept_categories = ({entry["id"] for entry in kept} for kept in (images, categories))
        annotations = [
            annotation
            for annotation in value["annotations"]
            if annotation["image_id"] in kept_images and annotation["category_id"] in kept_categories
        ]
        return image_folder, {"images": images, "annotations": annotations, "categories": categories}


def _check_size(path: Path, size: tuple[int, int]) -> None:
    got = read_image_size(path)
    if got != size:
        raise DataError(
            f"{path} is not of the size that its annotation says",
            got=f"height {got[0]}, width {got[1]} (upright, as its EXIF orientation says)",
            expected=f"height {size[0]}, width {size[1]}",
            remedy="mend height and width in the annotation file, or replace the image",
        )


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
