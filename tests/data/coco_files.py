"""A small data set in COCO's format: images of two orientations with boxes, masks and keypoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = [(40, 60), (60, 40), (30, 50), (50, 30)]  # height, width
NAMES = ("nose", "left_eye", "right_eye")
FLIP_MAP = [("left_eye", "right_eye")]


def annotation(annotation_id: int, image_id: int, **changes: Any) -> dict[str, Any]:
    """Return the annotation of a rectangle from (4, 6) to (20, 24)."""
    value = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 7,
        "bbox": [4, 6, 16, 18],
        "area": 288,
        "iscrowd": 0,
        "segmentation": [[4, 6, 20, 6, 20, 24, 4, 24]],
        "keypoints": [10, 10, 2, 6, 8, 1, 0, 0, 0],
    }
    return {**value, **changes}


def write_coco(folder: Path, **further: list[dict[str, Any]]) -> Path:
    """Write four images, one without annotations, and ``instances.json``."""
    annotations = [
        annotation(1, 1),
        annotation(2, 1, category_id=3, bbox=[30, 10, 20, 20], segmentation=[[30, 10, 50, 10, 50, 30]]),
        annotation(3, 2),
        annotation(4, 3, iscrowd=1),
        *further.get("annotations", []),
    ]
    images = []
    for image_id, (height, width) in enumerate(SIZES, start=1):
        pixels = np.random.default_rng(image_id).integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
    value = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(value))
    return path
