"""Reading COCO files and images, whole and broken."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detexport.data.coco import decode_image, load_coco, read_image, read_image_size
from detexport.data.synthetic import SyntheticShapes
from detexport.errors import DataError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes"
    SyntheticShapes(train_images=0, val_images=6).write(path)
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


def test_categories_are_indexed_in_the_order_asked_for(shapes: Path) -> None:
    dataset = load_coco(shapes, "val", ["star", "circle"])
    assert (dataset.class_names, dataset.category_ids) == (("star", "circle"), (4, 1))
    coco = COCO(str(shapes / "annotations/instances_val.json"))
    annotations = [a for record in dataset.images for a in record.annotations]
    assert len(annotations) == len(coco.getAnnIds(catIds=[1, 4]))
    assert all(coco.anns[a["id"]]["category_id"] == (4, 1)[a["category_id"]] for a in annotations)
    assert len(dataset.images) == 6  # images without any stay


@pytest.mark.parametrize("categories", [["circle", "hexagon"], ["circle", "circle"], []])
def test_categories_that_cannot_be_had(shapes: Path, categories: list[str]) -> None:
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
def test_annotations_that_do_not_fit(copy: Path, change: Callable, message: str) -> None:
    edit(copy, change)
    with pytest.raises(DataError, match=message):
        load_coco(copy, "val")


def test_a_missing_image(copy: Path) -> None:
    (copy / "images/val/000003.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 images .* missing; got: no file .*000003\.png"):
        load_coco(copy, "val")


@pytest.mark.parametrize("name", ["../val/000001.png", "/etc/hostname"])
def test_a_file_name_that_leads_out_of_the_folder(copy: Path, name: str) -> None:
    edit(copy, lambda value: value["images"][0].update(file_name=name))
    with pytest.raises(DataError, match="1 of 6 images"):
        load_coco(copy, "val")


def png(pixels: np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format, **options)
    return buffer.getvalue()


def test_channel_order(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "image.png").write_bytes(png(pixels))
    rgb, bgr = (read_image(tmp_path / "image.png", order) for order in ("RGB", "BGR"))
    np.testing.assert_array_equal(rgb, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(bgr, rgb[::-1])
    assert bgr.flags.c_contiguous
    with pytest.raises(ValueError, match="RGB or BGR"):
        decode_image(png(pixels), "GRB")  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = 255  # the corner that is upper left in the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "image.png").write_bytes(png(pixels, exif=exif))
    image = read_image(tmp_path / "image.png")
    # EXIF 2.32: where the 0th row and 0th column are, seen upright.
    top = orientation in (1, 2, 5, 6)
    left = orientation in (1, 4, 5, 8)
    assert image.shape == ((3, 4, 6) if orientation < 5 else (3, 6, 4))
    assert image[0, 0 if top else -1, 0 if left else -1] == 255
    assert read_image_size(tmp_path / "image.png") == image.shape[1:]


def test_gray_palette_and_transparent_images_become_rgb() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(decode_image(png(gray)), np.stack([gray] * 3))
    rgba = np.dstack([gray, gray + 1, gray + 2, np.full_like(gray, 9)])
    np.testing.assert_array_equal(decode_image(png(rgba)), rgba[..., :3].transpose(2, 0, 1))


def test_sixteen_bits_are_refused_instead_of_cut_off() -> None:
    with pytest.raises(DataError, match="8 bits a channel; got: PIL's mode I;16"):
        decode_image(png(np.full((3, 4), 1000, dtype=np.uint16)))


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "encoded",
    [b"", b"no image", png(NOISE)[:2000], png(NOISE)[:40], png(NOISE, "JPEG")[:600], png(NOISE, "GIF")[:300]],
    ids=["empty", "text", "cut PNG", "PNG header", "cut JPEG", "cut GIF"],
)
def test_what_is_not_a_whole_image(tmp_path: Path, encoded: bytes) -> None:
    with pytest.raises(DataError, match=r"the input of .* cannot be read as an image"):
        decode_image(encoded)
    (tmp_path / "image").write_bytes(encoded)
    with pytest.raises(DataError, match=r"cannot be read as an image; got: .*; expected: .*; remedy: "):
        read_image(tmp_path / "image")


def test_an_image_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_image(tmp_path / "none.png")


def test_keypoints_are_read_with_their_mirror_images(shapes: Path) -> None:
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
