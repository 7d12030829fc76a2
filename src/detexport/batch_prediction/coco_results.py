"""Write detections in COCO's results format, with the images and categories that they refer to."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from detexport.batch_prediction.location import Location
from detexport.contract import Contract
from detexport.errors import ConfigError

RESULTS, IMAGES = "results.json", "images.json"


def require_instances(contract: Contract) -> None:
    """Raise ConfigError if the model outputs no instances: COCO's results format holds nothing else."""
    if "scores" not in contract.output_names:
        raise ConfigError(
            "COCO's results format does not support the outputs of this model",
            got=", ".join(contract.output_names),
            expected="pred_boxes, scores and pred_classes",
            remedy="--format parquet",
        )


def write_coco(rows: Iterable[dict[str, Any]], contract: Contract, output: Location) -> None:
    """Write ``results.json`` and ``images.json``; ``COCO("images.json").loadRes("results.json")`` reads both.

    Args:
        rows: one per image, see ``schema_of``. The ids of the images are 1, 2, ... in this order.
        contract: has the class names; a category id is the class index + 1.
        output: the folder to write to.
    """
    images: list[dict[str, Any]] = []

    def detections() -> Iterator[dict[str, Any]]:
        for image_id, row in enumerate(rows, start=1):
            images.append(
                {
                    "id": image_id,
                    "file_name": row["image"],
                    "height": row["height"],
                    "width": row["width"],
                }
            )
            yield from detections_of(row, image_id)

    output.write(RESULTS, lambda stream: _write_list(detections(), stream))
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(contract.class_names)]
    document = {"images": images, "categories": categories, "annotations": []}

    def write_document(stream: BinaryIO) -> None:
        stream.write(json.dumps(document).encode())

    output.write(IMAGES, write_document)


def detections_of(row: dict[str, Any], image_id: int) -> list[dict[str, Any]]:
    """Return the detections of an image: ``bbox`` x, y, width, height in px, ``segmentation`` RLE.

    ``keypoints`` are x, y and the model's score of each; x and y in px, with the centre of the first pixel at
    (0, 0), as in COCO.
    """
    found = []
    for index, (box, score, number) in enumerate(
        zip(row["boxes"] or (), row["scores"] or (), row["classes"] or (), strict=True)
    ):
        left, top, right, bottom = box
        one = {
            "image_id": image_id,
            "category_id": number + 1,
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        if row.get("masks") is not None:
            one["segmentation"] = row["masks"][index]
        if row.get("keypoints") is not None:
            one["keypoints"] = [
                value for x, y, seen in row["keypoints"][index] for value in (x - 0.5, y - 0.5, seen)
            ]
        found.append(one)
    return found


def _write_list(values: Iterable[dict[str, Any]], stream: BinaryIO) -> None:
    """Write a JSON list value by value, so that memory does not grow with it."""
    stream.write(b"[")
    for index, value in enumerate(values):
        stream.write((",\n" if index else "\n").encode() + json.dumps(value).encode())
    stream.write(b"\n]\n")
