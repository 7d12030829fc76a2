"""Reader of COCO annotation files, which checks all values.

It reads instances, keypoints and panoptic segments for the command line, the pipeline, ``DatasetCatalog`` and
the metrics. The format:

- ids are integers of 64 bits or strings, unique among images, categories or annotations; 1 and "1" are two
  ids. Integers are sorted before strings, and class i is the i-th smallest category id in this order.
- boxes are four finite numbers, width and height not negative. Other numbers are finite, too.
- segmentations: see ``detexport.data.segmentation``. An annotation whose polygons are all invalid is left out
  with a warning, as in detectron2; one without a segmentation is kept as a box.
- several categories may have one name, and several images one file.

Anything else raises ``DataError``, which names file, entry, value and the expected value.
"""

import json
import logging
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.contract import MAX_SIDE
from detexport.data.segmentation import checked_segmentation
from detexport.errors import DataError, listed

logger = logging.getLogger(__name__)

ImageId = int | str
"""COCO's id of an image."""

REQUIRED_KEYS: dict[str, tuple[str, ...]] = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}
PANOPTIC_KEYS: dict[str, tuple[str, ...]] = {
    "annotations": ("image_id", "file_name", "segments_info"),
    "categories": ("id", "name", "isthing"),
}
MAX_NUMBER = 1 << 24
"""Largest absolute value of a box's number in px; above it float32 cannot represent each pixel."""

MAX_AREA = MAX_NUMBER**2
"""Largest area in px²: that of the largest box."""

MAX_SEGMENT_ID = (1 << 24) - 1
"""Largest id that three channels of 8 bits can store."""

_short = reprlib.Repr()
_short.maxstring, _short.maxother, _short.maxlist, _short.maxdict = 60, 60, 8, 4


def id_order(value: ImageId) -> tuple[bool, ImageId]:
    """Return the sort key of an id: integers come before strings."""
    return isinstance(value, str), value


def read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a file of COCO's instance or keypoint annotations.

    Returns:
        ``images`` and ``categories`` by ascending id, ``annotations`` in the file's order; other keys are
        kept. Integral ids are int; ``iscrowd`` is 0 or 1; ``segmentation`` and ``keypoints`` are left out if
        empty, and ``num_keypoints`` counts the labelled keypoints.

    Raises:
        DataError: the file does not exist, or has another format than this module describes.
    """
    entries = _entries(path, REQUIRED_KEYS)
    images = [_image(entry) for entry in entries["images"]]
    categories = [_category(entry) for entry in entries["categories"]]
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    known = {category["id"] for category in categories}
    annotations = [_annotation(entry, sizes, known) for entry in entries["annotations"]]
    for key, checked in (("images", images), ("annotations", annotations), ("categories", categories)):
        _check_once(path, key, [one["id"] for one in checked])
    left_out = [one["id"] for one in annotations if one.get("segmentation") == []]
    if left_out:
        logger.warning(
            "%s: %d annotations without a valid polygon are left out: ids %s",
            path,
            len(left_out),
            listed(left_out),
        )
    return {
        "images": sorted(images, key=lambda one: id_order(one["id"])),
        "annotations": [one for one in annotations if one.get("segmentation") != []],
        "categories": sorted(categories, key=lambda one: id_order(one["id"])),
    }


def read_panoptic_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a file of COCO's panoptic annotations.

    Returns:
        ``annotations``, each with ``image_id``, ``file_name`` and ``segments_info``, whose entries have
        ``id``, ``category_id`` and ``iscrowd``; ``categories`` by ascending id, ``isthing`` 0 or 1.

    Raises:
        DataError: the file does not exist, or is not COCO's.
    """
    entries = _entries(path, PANOPTIC_KEYS)
    categories = [_category(entry) | {"isthing": entry.flag("isthing")} for entry in entries["categories"]]
    _check_once(path, "categories", [category["id"] for category in categories])
    known = {category["id"] for category in categories}
    annotations = [_panoptic_annotation(entry, known) for entry in entries["annotations"]]
    _check_once(path, "annotations", [annotation["image_id"] for annotation in annotations])
    return {
        "annotations": annotations,
        "categories": sorted(categories, key=lambda category: id_order(category["id"])),
    }


class _Entry:
    """An entry of a file, with its position for error messages."""

    def __init__(self, path: Path, place: str, value: dict[str, Any]) -> None:
        self.path, self.place, self.value = path, place, value

    def fault(self, key: str, expected: str, got: object = None) -> DataError:
        id = f" (id {_short.repr(self.value['id'])})" if "id" in self.value else ""
        return DataError(
            f"{self.path}: {self.place}{id} is not valid",
            got=f"{key}: {got or _short.repr(self.value[key])}",
            expected=expected,
            remedy="correct the annotation file",
        )

    def id(self, key: str = "id") -> ImageId:
        value = self.value[key]
        if isinstance(value, float) and value.is_integer():  # JSON does not distinguish 1.0 from 1
            value = int(value)
        if type(value) is int and -(1 << 63) <= value < 1 << 63:
            return value
        if isinstance(value, str) and value:
            return self.text(key)
        raise self.fault(key, "an integer of 64 bits, or a string that is not empty")

    def text(self, key: str) -> str:
        value = self.value[key]
        if not isinstance(value, str) or not value.strip():
            raise self.fault(key, "a string that is not empty")
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.fault(key, "a string that UTF-8 can encode, without NUL")
        return value

    def number(self, key: str, value: Any, largest: int = MAX_NUMBER) -> int | float:
        if type(value) not in (int, float) or not -largest <= value <= largest:
            raise self.fault(key, f"finite numbers within ±{largest}")
        number: int | float = value
        return number

    def flag(self, key: str) -> int:
        value = self.value[key]
        if isinstance(value, int | float) and value in (0, 1):
            return int(value)
        raise self.fault(key, "0 or 1")

    def items(self, key: str) -> list[Any]:
        value = self.value[key]
        if not isinstance(value, list):
            raise self.fault(key, "a list")
        return value


def _entries(path: Path, required: dict[str, tuple[str, ...]]) -> dict[str, list[_Entry]]:
    """Return the entries under each required key; all are dicts with their own required keys."""
    value = _read_json(path, required)
    entries: dict[str, list[_Entry]] = {}
    for key, names in required.items():
        listed_under = value.get(key) if isinstance(value, dict) else None
        if not isinstance(listed_under, list):
            raise _not_coco(path, required, f"no list {key!r}")
        for position, entry in enumerate(listed_under):
            missing = [name for name in names if not isinstance(entry, dict) or name not in entry]
            if missing:
                raise _not_coco(path, required, f"{key}[{position}] without {', '.join(missing)}")
        entries[key] = [_Entry(path, f"{key}[{i}]", entry) for i, entry in enumerate(listed_under)]
    return entries


def _read_json(path: Path, required: dict[str, tuple[str, ...]]) -> Any:
    if not os.path.isfile(path):
        raise DataError(
            "the annotation file is missing",
            got=f"no file {path}" if not os.path.lexists(path) else f"{path}, which is not a regular file",
            expected="an annotation file in COCO's format",
            remedy="check the paths of the data set's splits and prepare the data again",
        )
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise _not_coco(path, required, "lists that are nested too deeply") from None
    except (OSError, ValueError) as error:  # also bytes that are not UTF-8, and numbers with too many digits
        raise _not_coco(path, required, f"not JSON: {str(error)[:200]}") from error


def _not_coco(path: Path, required: dict[str, tuple[str, ...]], got: str) -> DataError:
    return DataError(
        f"{path} is not a COCO annotation file",
        got=got,
        expected="; ".join(f"{key} with {', '.join(names)}" for key, names in required.items()),
        remedy="name the annotation file of this kind (instances_*.json, person_keypoints_*.json, "
        "panoptic_*.json) or correct it",
    )


def _check_once(path: Path, key: str, ids: Sequence[ImageId]) -> None:
    if len(set(ids)) == len(ids):
        return
    seen: set[ImageId] = set()
    twice = [one for one in ids if one in seen or seen.add(one)]  # type: ignore[func-returns-value]
    raise DataError(
        f"{path} is not a COCO annotation file",
        got=f"an id that occurs twice in {key!r}: {listed(map(_short.repr, dict.fromkeys(twice)))}",
        expected="each id once",
        remedy="renumber the entries",
    )


def _image(entry: _Entry) -> dict[str, Any]:
    image = entry.value | {"id": entry.id(), "file_name": entry.text("file_name")}
    for key in ("height", "width"):
        side = entry.number(key, image[key])
        if side != int(side) or not 1 <= side <= MAX_SIDE:
            raise entry.fault(key, f"an integer number of px from 1 to {MAX_SIDE}")
        image[key] = int(side)
    return image


def _category(entry: _Entry) -> dict[str, Any]:
    if entry.value.get("keypoints") is not None and not all(
        isinstance(name, str) for name in entry.items("keypoints")
    ):
        raise entry.fault("keypoints", "a list of names")
    return entry.value | {"id": entry.id(), "name": entry.text("name")}


def _annotation(
    entry: _Entry, sizes: dict[ImageId, tuple[int, int]], categories: set[ImageId]
) -> dict[str, Any]:
    annotation = entry.value | {
        "id": entry.id(),
        "image_id": _known(entry, "image_id", sizes),
        "category_id": _known(entry, "category_id", categories),
        "iscrowd": entry.flag("iscrowd"),
    }
    if entry.number("area", annotation["area"], MAX_AREA) < 0:
        raise entry.fault("area", "a non-negative number")
    box = [entry.number("bbox", number) for number in entry.items("bbox")]
    if len(box) != 4 or min(box[2:]) < 0:
        raise entry.fault("bbox", "x, y, width, height in px, width and height not negative")
    try:
        segmentation = checked_segmentation(
            annotation.pop("segmentation", None), *sizes[annotation["image_id"]]
        )
    except ValueError as error:
        raise entry.fault("segmentation", "polygons, or run lengths of the image's size", error) from None
    if segmentation is not None:
        annotation["segmentation"] = segmentation
    return _with_keypoints(entry, annotation)


def _with_keypoints(entry: _Entry, annotation: dict[str, Any]) -> dict[str, Any]:
    if not annotation.get("keypoints"):
        annotation.pop("keypoints", None)
        return annotation
    numbers = [entry.number("keypoints", number) for number in entry.items("keypoints")]
    if len(numbers) % 3:
        raise entry.fault("keypoints", "x, y, visibility of each keypoint")
    return annotation | {"num_keypoints": sum(visibility > 0 for visibility in numbers[2::3])}


def _panoptic_annotation(entry: _Entry, categories: set[ImageId]) -> dict[str, Any]:
    segments = []
    for position, segment in enumerate(entry.items("segments_info")):
        missing = [
            key for key in ("id", "category_id") if not isinstance(segment, dict) or key not in segment
        ]
        if missing:
            raise entry.fault(
                "segments_info", "id and category_id of each segment", f"[{position}] without {missing}"
            )
        one = _Entry(entry.path, f"{entry.place}.segments_info[{position}]", {"iscrowd": 0, **segment})
        id = one.id()
        if not isinstance(id, int) or not 0 < id <= MAX_SEGMENT_ID:
            raise one.fault("id", f"an integer from 1 to {MAX_SEGMENT_ID}")
        segments.append(
            {"id": id, "category_id": _known(one, "category_id", categories), "iscrowd": one.flag("iscrowd")}
        )
    image_id, file_name = entry.id("image_id"), entry.text("file_name")
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}


def _known(entry: _Entry, key: str, known: Any) -> ImageId:
    value = entry.id(key)
    if value not in known:
        raise DataError(
            f"{entry.path}: {entry.place} refers to an entry that the file lacks",
            got=f"unknown {key} {_short.repr(value)}",
            expected=f"the id of an entry in {'images' if key == 'image_id' else 'categories'!r}",
            remedy="correct the annotation file",
        )
    return value
