"""Fuzzed annotation files and images are read, or raise a DetexportError."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import write_coco
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from detexport.data.annotations import read_panoptic_annotations
from detexport.data.coco import CocoDataset, check_image_sizes, check_images_exist, read_coco, read_record
from detexport.data.datasets import load_coco_json
from detexport.data.images import decode_image, read_image_size, read_label_map
from detexport.data.mapping import GroundTruth, training_example
from detexport.data.segmentation import annotation_mask
from detexport.metrics.average_precision import coco_ap
from fuzzing import fuzzed, mutated_bytes, mutated_trees, only_our_errors


def rle(height: int, width: int) -> dict[str, Any]:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[3:9, 2:20] = 1
    encoded = coco_mask.encode(mask)
    return {"size": [height, width], "counts": encoded["counts"].decode()}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


def instances() -> dict[str, Any]:
    """Return annotations of the four images of ``coco_files``, with each kind of segmentation."""
    segmentations = [
        [[4, 6, 20, 6, 20, 24, 4, 24]],
        rle(40, 60),
        {"size": [60, 40], "counts": [100, 50, 2250]},
        [],
    ]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
            for i, (height, width) in enumerate([(40, 60), (60, 40), (30, 50), (50, 30)], start=1)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": image_id,
                "category_id": category,
                "bbox": [4, 6, 16, 18],
                "area": 288,
                "iscrowd": int(i == 2),
                "segmentation": segmentation,
                "keypoints": [10, 10, 2, 6, 8, 1, 0, 0, 0],
            }
            for i, (image_id, category, segmentation) in enumerate(
                zip([1, 1, 2, 3], [7, 3, 7, 7], segmentations, strict=True), start=1
            )
        ],
        "categories": [
            {"id": 7, "name": "cat"},
            {"id": 3, "name": "dog", "keypoints": ["a", "left", "right"]},
        ],
    }


def outputs_of(dataset: CocoDataset) -> list[tuple[Any, dict[str, np.ndarray]]]:
    """Return one detection of the first class on each image."""
    return [
        (
            record.image_id,
            {
                "pred_boxes": np.array([[4, 6, 20, 24]], np.float32),
                "scores": np.array([0.9], np.float32),
                "pred_classes": np.zeros(1, np.int64),
                "pred_masks": np.ones((1, record.height, record.width), bool),
            },
        )
        for record in dataset.images
    ]


def use(path: Path, folder: Path) -> None:
    """Run all functions that use an annotation file."""
    records = load_coco_json(path, folder)
    dataset = read_coco(path, folder)
    assert len(records) == len(dataset.images)
    for record in dataset.images:
        for one in record.annotations:
            if record.height * record.width < 1 << 20:
                annotation_mask(one.get("segmentation"), record.height, record.width)
    check_images_exist(dataset)
    check_image_sizes(dataset)
    for record in dataset.images:
        assert read_record(record).shape == (3, record.height, record.width)
        training_example(record, "RGB", GroundTruth())
    if dataset.class_names:
        coco_ap(path, outputs_of(dataset), dataset.category_ids)


@fuzzed()
@given(value=mutated_trees(instances()))
def test_annotations_with_changed_values(coco: Path, value: Any) -> None:
    path = coco.with_name("fuzzed.json")
    path.write_text(json.dumps(value))
    with only_our_errors():
        use(path, coco.parent)


@fuzzed()
@given(text=mutated_bytes(json.dumps(instances()).encode()))
def test_annotations_with_changed_bytes(coco: Path, text: bytes) -> None:
    path = coco.with_name("fuzzed.json")
    path.write_bytes(text)
    with only_our_errors():
        use(path, coco.parent)


PANOPTIC = {
    "annotations": [
        {"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 5, "category_id": 2, "iscrowd": 0}]}
    ],
    "categories": [{"id": 2, "name": "sky", "isthing": 0}, {"id": 3, "name": "cat", "isthing": 1}],
}


@fuzzed()
@given(value=mutated_trees(PANOPTIC))
def test_panoptic_annotations_with_changed_values(coco: Path, value: Any) -> None:
    path = coco.with_name("fuzzed_panoptic.json")
    path.write_text(json.dumps(value))
    with only_our_errors():
        read_panoptic_annotations(path)


def encoded(image_format: str, mode: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 33, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    value = Image.Exif()
    value[0x0112] = 6
    return value


IMAGES = [
    encoded("PNG", "RGB", exif=exif()),
    encoded("PNG", "P"),
    encoded("PNG", "L"),
    encoded("JPEG", "RGB", exif=exif()),
    encoded("JPEG", "CMYK"),
    encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (33, 24))]),
    encoded("TIFF", "RGB", exif=exif()),
    encoded("TIFF", "RGBA", compression="tiff_lzw"),
    encoded("WEBP", "RGB"),
    encoded("BMP", "RGB"),
    encoded("PPM", "RGB"),
    encoded("ICO", "RGBA", sizes=[(16, 16)]),
    encoded("TGA", "RGB"),
    encoded("PCX", "RGB"),
    encoded("DDS", "RGB"),
    encoded("JPEG2000", "RGB"),
]


@pytest.mark.filterwarnings("ignore")
@fuzzed()
@given(data=st.sampled_from(IMAGES).flatmap(mutated_bytes))
def test_images_with_changed_bytes(coco: Path, data: bytes) -> None:
    with only_our_errors():
        image = decode_image(data)
        assert image.dtype == np.uint8
        assert image.shape[0] == 3
    path = coco.with_name("fuzzed.png")
    path.write_bytes(data)
    for read in (read_label_map, read_image_size):
        with only_our_errors():
            read(path)
