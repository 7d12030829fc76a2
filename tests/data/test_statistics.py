import json
from pathlib import Path

import pytest
from PIL import Image

from detexport.data.statistics import describe_labels
from detexport.errors import DataError
from synthetic_shapes import synthetic_shapes


def test_labels_are_counted_by_class_and_split(tmp_path: Path) -> None:
    synthetic_shapes(train_images=3, val_images=2).write(tmp_path / "shapes")
    found = describe_labels(tmp_path / "shapes")
    assert {split: one["images"] for split, one in found.items()} == {"train": 3, "val": 2}
    for split, one in found.items():
        value = json.loads((tmp_path / f"shapes/annotations/instances_{split}.json").read_text())
        assert sum(one["labels"].values()) == len(value["annotations"])
        assert list(one["labels"]) == [category["name"] for category in value["categories"]]
        assert (one["boxes_outside"], one["boxes_outside_ids"]) == (0, [])
        panoptic = json.loads((tmp_path / f"shapes/annotations/panoptic_{split}.json").read_text())
        things = len(value["annotations"])
        segments = sum(len(entry["segments_info"]) for entry in panoptic["annotations"])
        assert sum(one["stuff"].values()) == segments - things > 0
    assert list(describe_labels(tmp_path / "shapes", ["star"])["val"]["labels"]) == ["star"]


@pytest.mark.parametrize(
    ("bbox", "outside"),
    [
        ([0, 0, 64, 40], 0),
        ([-1, 0, 66, 41], 0),  # annotation tools round
        ([-1.5, 0, 10, 10], 1),
        ([0, -2, 10, 10], 1),
        ([60, 0, 5.5, 10], 1),
        ([0, 30, 10, 12], 1),
    ],
)
def test_boxes_that_exceed_their_image_are_counted(tmp_path: Path, bbox: list[float], outside: int) -> None:
    (tmp_path / "images/val").mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    for name in ("1.png", "2.png"):
        Image.new("RGB", (64, 40)).save(tmp_path / "images/val" / name)
    value = {
        "images": [{"id": one, "file_name": f"{one}.png", "height": 40, "width": 64} for one in (1, 2)],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 1, "bbox": bbox, "area": 1, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(value))
    assert describe_labels(tmp_path) == {
        "val": {
            "images": 2,
            "images_without_labels": 1,
            "labels": {"cat": 1, "dog": 0},
            "boxes_outside": outside,
            "boxes_outside_ids": [7] * outside,
        }
    }


def test_a_data_set_without_a_class_is_an_error(tmp_path: Path) -> None:
    synthetic_shapes(train_images=0, val_images=1).write(tmp_path / "shapes")
    with pytest.raises(DataError, match="unicorn"):
        describe_labels(tmp_path / "shapes", ["unicorn"])
