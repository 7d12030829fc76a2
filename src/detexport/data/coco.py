"""Reading data sets in COCO's format, and images.

The standard layout of a data set's folder::

    images/{train,val}/*                          images, 8 bits a channel
    annotations/instances_{train,val}.json        COCO's instance annotations
    annotations/keypoints_{train,val}.json        the same with keypoints, where there are any
    annotations/panoptic_{train,val}.json         COCO's panoptic annotations, where there are any
    panoptic_{train,val}/*.png                    their segments' ids
    semantic_{train,val}/*.png                    class of each pixel: 0 things, 1.. stuff, 255 not labelled
    dataset.json                                  name, class names, keypoints' names, number of images
"""

import io
import json
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from detexport.errors import DataError, memory_guard
from detexport.files import read_json

REQUIRED_KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}
# More bits a channel than 8: PIL would cut their values off instead of scaling them.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

# What PIL's decoders raise for broken files.
DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)

ChannelOrder = Literal["RGB", "BGR"]
AnnotationKind = Literal["instances", "keypoints"]


@dataclass(frozen=True)
class CocoRecord:
    """One image with its annotations.

    Args:
        image_id: COCO's id of the image.
        file_name: path of the image.
        height: in px.
        width: in px.
        annotations: as COCO has them (``bbox`` is x, y, width, height in px), but for ``category_id``, which
            is an index into the data set's ``class_names``; crowds (``iscrowd`` 1) included.
        sem_seg_file_name: path of the PNG with the class of each pixel; it need not exist.
    """

    image_id: int
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
        annotation_file: where it was read from.
        panoptic_file: COCO's panoptic annotations of the split; they need not exist.
        keypoint_flip: for each keypoint the index of the one that it becomes in a mirror; none where
            keypoints were not read.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[CocoRecord, ...]
    annotation_file: Path
    panoptic_file: Path
    keypoint_flip: tuple[int, ...] = ()


def records_of(dataset: CocoDataset, image_ids: tuple[int, ...]) -> list[CocoRecord]:
    """The images of these ids.

    Raises:
        DataError: the data set lacks one.
    """
    records = {record.image_id: record for record in dataset.images}
    lacking = [image_id for image_id in image_ids if image_id not in records]
    if lacking:
        raise DataError(
            f"{dataset.annotation_file} lacks images that the eager model was judged on",
            got=f"no image of the ids {lacking[:10]}",
            expected="the data set that the reference was made with",
            remedy="run the stage `reference` again",
        )
    return [records[image_id] for image_id in image_ids]


def load_coco(
    folder: Path,
    split: str,
    categories: Sequence[str] | None = None,
    kind: AnnotationKind = "instances",
) -> CocoDataset:
    """Read one split of a folder in the standard layout.

    Args:
        folder: the data set.
        split: ``"train"`` or ``"val"``.
        categories: names of the classes to keep, in the order of their indices; None keeps all, in the
            file's order.
        kind: annotations to read; ``"keypoints"`` are instances that have keypoints too.

    Raises:
        DataError: the annotation file is missing or is not COCO's, a category is not in it, or an image that
            it lists does not exist.
    """
    annotation_file = Path(folder) / "annotations" / f"{kind}_{split}.json"
    if kind == "keypoints" and not annotation_file.is_file():
        raise DataError(
            f"the data set {folder} has no keypoints",
            got=f"no file {annotation_file}",
            expected="COCO's keypoint annotations, which the synthetic data set has",
            remedy="choose other data, or a model without keypoints",
        )
    value = read_annotations(annotation_file)
    chosen = choose_categories(value, categories, annotation_file)
    index_of = {category["id"]: index for index, category in enumerate(chosen)}
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in value["annotations"]:
        if annotation["category_id"] in index_of:
            renumbered = {**annotation, "category_id": index_of[annotation["category_id"]]}
            by_image[annotation["image_id"]].append(renumbered)
    image_folder = Path(folder) / "images" / split
    check_images_exist(value["images"], image_folder, annotation_file)
    return CocoDataset(
        class_names=tuple(category["name"] for category in chosen),
        category_ids=tuple(category["id"] for category in chosen),
        images=tuple(
            CocoRecord(
                image_id=image["id"],
                file_name=image_folder / image["file_name"],
                height=image["height"],
                width=image["width"],
                annotations=tuple(by_image[image["id"]]),
                sem_seg_file_name=(Path(folder) / f"semantic_{split}" / image["file_name"]).with_suffix(
                    ".png"
                ),
            )
            for image in sorted(value["images"], key=lambda image: image["id"])
        ),
        annotation_file=annotation_file,
        panoptic_file=annotation_file.with_name(f"panoptic_{split}.json"),
        keypoint_flip=_read_keypoint_flip(Path(folder) / "dataset.json") if kind == "keypoints" else (),
    )


def _read_keypoint_flip(path: Path) -> tuple[int, ...]:
    description = read_json(path)
    return keypoint_flip(description["keypoints"], description["keypoint_flip"])


def keypoint_flip(names: Sequence[str], mirrored: Mapping[str, str]) -> tuple[int, ...]:
    """For each keypoint the index of the one that it becomes in a mirror.

    Args:
        names: of the keypoints.
        mirrored: name of a keypoint -> that of its mirror image; the others are their own.
    """
    return tuple(names.index(mirrored.get(name, name)) for name in names)


def read_annotations(path: Path) -> dict[str, Any]:
    """Read a COCO instance annotation file and check that it is one.

    Raises:
        DataError: there is no such file, it is not JSON, keys are missing, an id occurs twice, or an
            annotation names an image or a category that the file lacks.
    """
    if not path.is_file():
        raise DataError(
            "the annotation file is missing",
            got=f"no file {path}",
            expected="an instance annotation file in COCO's format",
            remedy="check the paths of the data set's splits and prepare the data again",
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _not_coco(path, f"not JSON: {error}") from error
    for key, required in REQUIRED_KEYS.items():
        entries = value.get(key) if isinstance(value, dict) else None
        if not isinstance(entries, list):
            raise _not_coco(path, f"no list {key!r}")
        for position, entry in enumerate(entries):
            missing = [name for name in required if not isinstance(entry, dict) or name not in entry]
            if missing:
                raise _not_coco(path, f"{key}[{position}] without {', '.join(missing)}")
        if len({entry["id"] for entry in entries}) < len(entries):
            raise _not_coco(path, f"an id that occurs twice in {key!r}")
    for key, target in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in value[target]}
        for annotation in value["annotations"]:
            if annotation[key] not in known:
                raise _not_coco(path, f"annotation {annotation['id']} with unknown {key} {annotation[key]}")
    return value


def _not_coco(path: Path, got: str) -> DataError:
    return DataError(
        f"{path} is not a COCO annotation file",
        got=got,
        expected="; ".join(f"{key} with {', '.join(names)}" for key, names in REQUIRED_KEYS.items()),
        remedy="name the instance annotation file (instances_*.json) or mend it",
    )


def choose_categories(
    value: dict[str, Any], categories: Sequence[str] | None, path: Path
) -> list[dict[str, Any]]:
    """The asked-for categories of a COCO file in the order asked for; if None all of them, in its order.

    Raises:
        DataError: a category is not in the file, or is asked for twice.
    """
    if categories is None:
        return value["categories"]
    by_name = {category["name"]: category for category in value["categories"]}
    wrong = [name for name in categories if name not in by_name or list(categories).count(name) > 1]
    if wrong or not categories:
        raise DataError(
            f"{path} does not have the categories that were asked for",
            got=", ".join(sorted(set(wrong))) or "an empty list",
            expected=f"different names of {', '.join(by_name)}",
            remedy="change data.categories",
        )
    return [by_name[name] for name in categories]


def check_images_exist(images: list[dict[str, Any]], folder: Path, annotation_file: Path) -> None:
    """Check that each image of a COCO file lies in ``folder``.

    Raises:
        DataError: some do not, or a file name leads out of the folder.
    """
    names = [image["file_name"] for image in images]
    missing = [n for n in names if _leads_out(n) or not (folder / n).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images of {annotation_file} are missing",
            got=f"no file {folder / missing[0]}",
            expected=f"every file_name below {folder}",
            remedy="check the image folder of the split, or complete it",
        )


def _leads_out(file_name: str) -> bool:
    path = PurePosixPath(file_name)
    return path.is_absolute() or ".." in path.parts


def read_image(path: Path, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Read an image file, upright as its EXIF orientation says.

    Returns:
        uint8 (3, H, W) in ``channel_order``, values 0..255.

    Raises:
        DataError: there is no such file, or it is not an image of 8 bits a channel.
        OutOfMemoryError: the memory does not suffice for it.
    """
    try:
        with Path(path).open("rb") as file:
            return _decode(file, channel_order, str(path))
    except OSError as error:
        raise _not_an_image(str(path), error) from error


def decode_image(encoded: bytes, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Decode an image file's bytes; as ``read_image``."""
    return _decode(io.BytesIO(encoded), channel_order, f"the input of {len(encoded)} bytes")


def read_label_map(path: Path) -> np.ndarray:
    """Read an image file whose pixels are labels.

    Returns:
        uint8 (H, W).

    Raises:
        DataError: there is no such file, or it is not an image of one channel of 8 bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise DataError(
                    f"{path} is not a map of labels",
                    got=f"PIL's mode {image.mode}",
                    expected="an image of one channel of 8 bits, the label of each pixel",
                    remedy="convert the image",
                )
            with memory_guard((image.height, image.width)):
                return np.array(image)
    except DECODING_ERRORS as error:
        raise _not_an_image(str(path), error) from error


def read_segment_map(path: Path) -> np.ndarray:
    """Read COCO's panoptic PNG.

    Returns:
        int64 (H, W), the id of each pixel's segment: red + 256 green + 256² blue.

    Raises:
        DataError: there is no such file, or it is not an image of 8 bits a channel.
    """
    red, green, blue = read_image(path).astype(np.int64)
    return red + 256 * green + 256 * 256 * blue


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width in px of an image file, upright; reads no more than its header.

    Raises:
        DataError: there is no such file, or it is not an image.
    """
    try:
        with Image.open(path) as image:
            quarter_turn = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.width, image.height) if quarter_turn else (image.height, image.width)
    except DECODING_ERRORS as error:
        raise _not_an_image(str(path), error) from error


def _decode(file: BinaryIO, channel_order: ChannelOrder, what: str) -> np.ndarray:
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order is RGB or BGR, not {channel_order!r}")
    try:
        with Image.open(file) as image:
            if image.mode in DEEP_MODES:
                raise DataError(
                    f"{what} is not an image of 8 bits a channel",
                    got=f"PIL's mode {image.mode}",
                    expected="8 bits a channel",
                    remedy="convert the image",
                )
            with memory_guard((3, image.height, image.width)):
                pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
                channels = pixels if channel_order == "RGB" else pixels[..., ::-1]
                return np.ascontiguousarray(channels.transpose(2, 0, 1))
    except DECODING_ERRORS as error:
        raise _not_an_image(what, error) from error


def _not_an_image(what: str, error: Exception) -> DataError:
    return DataError(
        f"{what} cannot be read as an image",
        got=f"{type(error).__name__}: {error}",
        expected="a whole PNG, JPEG or other image file that PIL reads",
        remedy="replace the file",
    )
