"""Reading of complete and broken COCO files and images."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from detexport.data.coco import check_image_sizes, load_coco, read_image, read_record
from detexport.errors import DataError
from synthetic_shapes import synthetic_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=6).write(path)
    return path


@pytest.fixture
def copy(shapes: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shapes, tmp_path / "copy")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "annotations/instances_val.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_load_coco_reads_what_pycocotools_reads(shapes: Path) -> None:
    dataset = load_coco(shapes, "val")
    coco = COCO(str(shapes / "annotations/instances_val.json"))
    assert dataset.class_names == ("circle", "rectangle", "triangle", "star", "ring")
    assert dataset.category_ids == (1, 2, 3, 4, 5)
    assert [record.image_id for record in dataset.images] == sorted(coco.imgs)
    for record in dataset.images:
        assert read_image(record.file_name).shape == (3, record.height, record.width)
        expected = coco.loadAnns(coco.getAnnIds(record.image_id))
        assert len(record.annotations) == len(expected)
        for annotation, original in zip(record.annotations, expected, strict=True):
            assert dataset.category_ids[annotation["category_id"]] == original["category_id"]
            assert annotation["bbox"] == original["bbox"]


def test_categories_are_indexed_in_the_order_of_the_names(shapes: Path) -> None:
    dataset = load_coco(shapes, "val", ["star", "circle"])
    assert (dataset.class_names, dataset.category_ids) == (("star", "circle"), (4, 1))
    coco = COCO(str(shapes / "annotations/instances_val.json"))
    annotations = [a for record in dataset.images for a in record.annotations]
    assert len(annotations) == len(coco.getAnnIds(catIds=[1, 4]))
    assert all(coco.anns[a["id"]]["category_id"] == (4, 1)[a["category_id"]] for a in annotations)
    assert len(dataset.images) == 6  # images without annotations are kept


@pytest.mark.parametrize("categories", [["circle", "hexagon"], ["circle", "circle"], []])
def test_unknown_categories_are_refused(shapes: Path, categories: list[str]) -> None:
    with pytest.raises(DataError, match=r"got: .*expected: .*circle, rectangle.*remedy: "):
        load_coco(shapes, "val", categories)


def test_a_missing_split(shapes: Path) -> None:
    with pytest.raises(DataError, match=r"missing; got: no file .*instances_test\.json"):
        load_coco(shapes, "test")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": {}}', "\x00\xff"])
def test_a_file_that_is_not_coco(copy: Path, text: str) -> None:
    (copy / "annotations/instances_val.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="is not a COCO annotation file"):
        load_coco(copy, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["annotations"][2].pop("bbox"), r"annotations\[2\] without bbox"),
        (lambda v: v["images"].append(7), r"images\[6\] without id, file_name, height, width"),
        (lambda v: v["annotations"].append(v["annotations"][0]), "an id that occurs twice in 'annotations'"),
        (lambda v: v["annotations"][0].update(image_id=99), "unknown image_id 99"),
        (lambda v: v["categories"].pop(), "unknown category_id 5"),
    ],
)
def test_invalid_annotations_are_refused(copy: Path, change: Callable, message: str) -> None:
    edit(copy, change)
    with pytest.raises(DataError, match=message):
        load_coco(copy, "val")


def test_a_missing_image(copy: Path) -> None:
    (copy / "images/val/000003.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 images .* missing; got: no file .*000003\.png"):
        load_coco(copy, "val")


def test_a_file_name_may_be_absolute_or_outside_the_folder(copy: Path, tmp_path: Path) -> None:
    (copy / "images/val/000001.png").rename(tmp_path / "elsewhere.png")
    (copy / "images/val/000002.png").rename(copy / "images/000002.png")

    def change(value: dict[str, Any]) -> None:
        value["images"][0].update(file_name=str(tmp_path / "elsewhere.png"))
        value["images"][1].update(file_name="../000002.png")

    edit(copy, change)
    records = load_coco(copy, "val").images
    for record in records:
        assert read_record(record).shape == (3, record.height, record.width)
    # Never the image itself, even if it is a PNG.
    assert records[0].sem_seg_file_name == copy / "semantic_val/elsewhere.png"
    assert records[1].sem_seg_file_name == copy / "semantic_val/000002.png"


@pytest.mark.parametrize("name", [".", "none.png", "x" * 5000, "000003.png/x"])
def test_a_file_name_of_a_missing_file(copy: Path, name: str) -> None:
    edit(copy, lambda value: value["images"][0].update(file_name=name))
    with pytest.raises(DataError, match=r"1 of 6 images .* are missing"):
        load_coco(copy, "val")


def resize_record(folder: Path, **size: int) -> None:
    """Change the size in the first image's record, and remove segmentations, which would not fit."""

    def change(value: dict[str, Any]) -> None:
        value["images"][0].update(size)
        for one in value["annotations"]:
            del one["segmentation"]

    edit(folder, change)


def test_an_image_of_another_size_than_its_record(copy: Path) -> None:
    resize_record(copy, height=200, width=190)
    dataset = load_coco(copy, "val")
    message = r"000001\.png has another size .*; got: height 200, width 150 .*expected: height 200, width 190"
    for check in (check_image_sizes, lambda _: read_record(dataset.images[0])):
        with pytest.raises(DataError, match=message):
            check(dataset)


def test_the_size_of_an_image_rotated_by_exif_is_the_upright_one(copy: Path) -> None:
    path = copy / "images/val/000001.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    with pytest.raises(DataError, match=r"height 150, width 200 \(upright.*expected: height 200, width 150"):
        check_image_sizes(load_coco(copy, "val"))
    resize_record(copy, height=150, width=200)
    check_image_sizes(load_coco(copy, "val"))


def test_keypoints_are_read_with_their_flip_indices(shapes: Path) -> None:
    instances, keypoints = load_coco(shapes, "val"), load_coco(shapes, "val", kind="keypoints")
    # center, top, right, bottom, left
    assert keypoints.keypoint_flip == (0, 1, 4, 3, 2)
    assert instances.keypoint_flip == ()
    for plain, record in zip(instances.images, keypoints.images, strict=True):
        assert [a["bbox"] for a in plain.annotations] == [a["bbox"] for a in record.annotations]
        assert all(len(a["keypoints"]) == 15 for a in record.annotations)


def test_a_data_set_without_keypoints(shapes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    (copy / "annotations/keypoints_val.json").unlink()
    with pytest.raises(DataError, match="has no keypoints"):
        load_coco(copy, "val", kind="keypoints")
