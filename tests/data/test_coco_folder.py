"""Conversion of a user's COCO folder, and errors before anything is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detexport.data.coco import load_coco
from detexport.data.coco_folder import CocoFolder
from detexport.errors import ConfigError, DataError
from synthetic_shapes import synthetic_shapes

SPLITS = {
    "train": {"images": "train2017", "annotations": "labels/instances_train2017.json"},
    "val": {"images": "val2017", "annotations": "labels/instances_val2017.json"},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Create a folder in another layout, with category ids that are unsorted and have gaps."""
    made, source = tmp_path / "made", tmp_path / "source"
    synthetic_shapes(train_images=2, val_images=4).write(made)
    (source / "labels").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.move(made / "images" / split, source / f"{split}2017")
        value = json.loads((made / f"annotations/instances_{split}.json").read_text())
        value["categories"].reverse()
        for entry, key in [(c, "id") for c in value["categories"]] + [
            (a, "category_id") for a in value["annotations"]
        ]:
            entry[key] *= 10
        (source / f"labels/instances_{split}2017.json").write_text(json.dumps(value))
    return source


def write(source: Path, target: Path, **options: Any) -> None:
    CocoFolder(**{"source": str(source), "name": "own", "splits": SPLITS, **options}).write(target)


def test_everything_is_kept_by_default(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out")
    dataset = load_coco(tmp_path / "out", "val")
    assert dataset.class_names == ("circle", "rectangle", "triangle", "star", "ring")
    assert dataset.category_ids == (10, 20, 30, 40, 50)
    original = json.loads((source / "labels/instances_val2017.json").read_text())
    assert sum(len(record.annotations) for record in dataset.images) == len(original["annotations"])
    for record in dataset.images:
        name = record.file_name.name
        assert record.file_name.read_bytes() == (source / "val2017" / name).read_bytes()
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["images"] == {"train": 2, "val": 4}
    assert (description["name"], description["things"]) == ("own", list(dataset.class_names))


def test_categories_and_max_images_filter(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out", categories=["star", "circle"], max_images=3)
    dataset = load_coco(tmp_path / "out", "val")
    # The ids have the order of the names, from which readers of the file take the class indices.
    assert (dataset.class_names, dataset.category_ids) == (("star", "circle"), (1, 2))
    assert [record.image_id for record in dataset.images] == [1, 2, 3]
    assert len(list((tmp_path / "out/images/val").iterdir())) == 3
    assert dataset == load_coco(tmp_path / "out", "val", ["star", "circle"])


def test_the_train_split_is_optional(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out", splits={**SPLITS, "train": None})
    assert not (tmp_path / "out/images/train").exists()
    with pytest.raises(DataError, match=r"instances_train\.json"):
        load_coco(tmp_path / "out", "train")


def test_an_image_in_a_subfolder_stays_in_it(source: Path, tmp_path: Path) -> None:
    (source / "val2017/a").mkdir()
    (source / "val2017/000001.png").rename(source / "val2017/a/1.png")
    path = source / "labels/instances_val2017.json"
    path.write_text(path.read_text().replace('"000001.png"', '"a/1.png"'))
    write(source, tmp_path / "out")
    assert (tmp_path / "out/images/val/a/1.png").is_file()


@pytest.mark.parametrize(
    "splits",
    [
        {"train": SPLITS["train"]},
        {**SPLITS, "test": SPLITS["val"]},
        {"val": {"images": "val2017"}},
        {"val": {**SPLITS["val"], "masks": "x"}},
        {"val": None},
    ],
)
def test_invalid_splits_are_refused(splits: dict) -> None:
    with pytest.raises(ConfigError, match=r"expected: val, and optionally train"):
        CocoFolder("x", "own", splits)


def test_max_images_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_images"):
        CocoFolder("x", "own", SPLITS, max_images=0)


def make_small(source: Path) -> None:
    Image.new("RGB", (8, 8)).save(source / "train2017/000002.png")


def make_text(source: Path) -> None:
    (source / "val2017/000004.png").write_text("no image")


def drop_annotations(source: Path) -> None:
    (source / "labels/instances_val2017.json").unlink()


def drop_image(source: Path) -> None:
    (source / "val2017/000004.png").unlink()


def rename_category(source: Path) -> None:
    path = source / "labels/instances_val2017.json"
    path.write_text(path.read_text().replace('"ring"', '"torus"'))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (make_small, r"000002\.png has another size .*got: height 8, width 8"),
        (make_text, r"000004\.png cannot be read as an image"),
        (drop_annotations, "the annotation file is missing"),
        (drop_image, "1 of 4 images"),
        (rename_category, "do not have the same categories"),
    ],
)
def test_errors_are_raised_before_anything_is_written(
    source: Path, tmp_path: Path, fault: Any, message: str
) -> None:
    fault(source)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=message):
        write(source, tmp_path / "data/out")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_missing_category_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"got: hexagon; expected: .*circle.*; remedy: change data\.categories"
    ):
        write(source, tmp_path / "out", categories=["circle", "hexagon"])
    assert not (tmp_path / "out").exists()


def change_annotations(source: Path, change: Any) -> None:
    path = source / "labels/instances_val2017.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_two_images_of_one_file_and_files_outside_the_folder(source: Path, tmp_path: Path) -> None:
    (source / "val2017/000002.png").rename(tmp_path / "far.png")

    def change(value: dict[str, Any]) -> None:
        value["images"].append({**value["images"][0], "id": "again"})
        value["images"][1]["file_name"] = str(tmp_path / "far.png")

    change_annotations(source, change)
    write(source, tmp_path / "out")
    dataset = load_coco(tmp_path / "out", "val")
    assert [record.image_id for record in dataset.images] == [1, 2, 3, 4, "again"]
    assert dataset.images[0].file_name == dataset.images[-1].file_name
    assert all(record.file_name.is_relative_to(tmp_path / "out/images/val") for record in dataset.images)
    assert dataset.images[1].file_name.read_bytes() == (tmp_path / "far.png").read_bytes()


def test_keypoints_of_the_annotations_are_kept(source: Path, tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        for category in value["categories"]:
            category["keypoints"] = ["nose", "left_eye", "right_eye"]
        for annotation in value["annotations"]:
            annotation["keypoints"] = [1, 2, 2] * 3

    change_annotations(source, change)
    write(source, tmp_path / "out", splits={**SPLITS, "train": None})
    dataset = load_coco(tmp_path / "out", "val", kind="keypoints")
    assert dataset.keypoint_flip == (0, 2, 1)
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["keypoints"] == ["nose", "left_eye", "right_eye"]
    assert description["keypoint_flip"] == {"left_eye": "right_eye", "right_eye": "left_eye"}


@pytest.mark.parametrize("categories", [[1, 2], [True], "star", [None], {"star": 1}])
def test_categories_that_are_not_strings(categories: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.categories are not .*remedy: "):
        CocoFolder("x", "own", SPLITS, categories=categories)
