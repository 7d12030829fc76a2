"""The images of a reference, without a model: their sizes, their names, what they are made of."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detexport.contract import ResizeRule
from detexport.data.coco import CocoRecord
from detexport.data.resize import resize_image
from detexport.reference.image_ops import noise
from detexport.reference.input_images import (
    ASPECT,
    TILE_PX,
    TILES,
    blank_image,
    data_images,
    made_images,
    meta_of,
    repeated_image,
)
from detexport.reference.input_kinds import BLACK, FLAT, MADE, NOISE, ODD, TALL, TIES, WHITE, WIDE
from detexport.reference.store import DATA, NO_IMAGE
from tiny_artifacts import tiny_contract

CONTRACT = tiny_contract(resize=ResizeRule(min_size=48, max_size=64), pixel_mean=(103.5, 116.25, 123.7))
SIDES = (60, 70)


def record(folder: Path, image_id: int | str, size: tuple[int, int] = SIDES) -> CocoRecord:
    file = folder / f"{len([*folder.iterdir()])}.png"
    seed = image_id if isinstance(image_id, int) else 0
    Image.fromarray(noise(size, seed).transpose(1, 2, 0)).save(file)
    return CocoRecord(image_id, file, *size, ())


def test_an_image_is_there_at_every_scale(tmp_path: Path) -> None:
    first = record(tmp_path, 7)
    found = list(data_images([first, record(tmp_path, 8)], CONTRACT, (1.0, 0.75)))
    assert [meta.id for meta, _ in found] == ["000007-1x", "000007-0.75x", "000008-1x", "000008-0.75x"]
    assert [meta.image_size for meta, _ in found[:2]] == [(48, 56), (36, 42)]
    for meta, image in found:
        assert (image.shape[1:], meta.kind) == (meta.image_size, DATA)
        assert (meta.output_size, meta.file.endswith(".png")) == (SIDES, True)
    np.testing.assert_array_equal(found[1][1], resize_image(noise(SIDES, 7), (36, 42)))


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "a b/c", "x" * 500, "", "Käfer", "."])
def test_a_text_as_image_id_becomes_a_file_name_of_its_own(tmp_path: Path, image_id: str) -> None:
    others = ["a-b-c", "a b c"]
    records = [record(tmp_path, one) for one in (image_id, *others)]
    names = [meta.id for meta, _ in data_images(records, CONTRACT, (1.0,))]
    assert len(set(names)) == 3
    for name in names:
        assert Path(name).name == name
        assert name.isascii()
        assert len(name) < 60


def test_the_made_kinds_are_those_that_are_asked_for(tmp_path: Path) -> None:
    records = [record(tmp_path, 7)]
    assert tuple(meta.kind for meta, _ in made_images(records, CONTRACT, MADE)) == MADE
    assert [meta.kind for meta, _ in made_images(records, CONTRACT, (WHITE, ODD, "unknown"))] == [ODD, WHITE]


def test_the_odd_image_is_the_first_one_in_odd_sides(tmp_path: Path) -> None:
    ((meta, image),) = made_images([record(tmp_path, 7), record(tmp_path, 8)], CONTRACT, (ODD,))
    assert (meta.image_id, meta.output_size) == (7, SIDES)
    assert meta.image_size == (43, 51)
    np.testing.assert_array_equal(image, resize_image(noise(SIDES, 7), (43, 51)))


@pytest.mark.parametrize(("kind", "output_size"), [(WIDE, (30, 240)), (TALL, (240, 30))])
def test_a_strip_is_of_the_first_images_side_by_side(
    tmp_path: Path, kind: str, output_size: tuple[int, int]
) -> None:
    ((meta, image),) = made_images([record(tmp_path, 7), record(tmp_path, 8)], CONTRACT, (kind,))
    assert (meta.image_id, meta.output_size) == (NO_IMAGE, output_size)
    assert (sorted(meta.image_size), image.shape[1:]) == ([64 // ASPECT, 64], meta.image_size)


def test_an_image_of_one_px_has_every_kind(tmp_path: Path) -> None:
    for meta, image in made_images([record(tmp_path, 7, (1, 1))], CONTRACT, MADE):
        assert image.shape == (3, *meta.image_size)
        assert min(*meta.image_size, *meta.output_size) >= 1


def test_a_blank_image_has_the_mean_or_an_extreme_value() -> None:
    assert blank_image(FLAT, (4, 5), CONTRACT)[:, 3, 4].tolist() == [104, 116, 124]
    assert (blank_image(BLACK, (4, 5), CONTRACT) == 0).all()
    assert (blank_image(WHITE, (4, 5), CONTRACT) == 255).all()
    assert len(np.unique(blank_image(NOISE, (40, 50), CONTRACT))) == 256


@pytest.mark.parametrize(("size", "tile"), [((10, 10), (1, 1)), ((700, 400), (3, 2)), ((384, 383), (2, 1))])
def test_the_copies_of_an_image_are_equal_and_aligned(size: tuple[int, int], tile: tuple[int, int]) -> None:
    meta, image = repeated_image(noise(size))
    height, width = tile[0] * TILE_PX, tile[1] * TILE_PX
    assert (meta.kind, meta.image_size, meta.output_size) == (TIES, image.shape[1:], image.shape[1:])
    assert image.shape == (3, TILES * height, TILES * width)
    np.testing.assert_array_equal(image[:, :height, :width], image[:, -height:, -width:])
    np.testing.assert_array_equal(image[:, :height, :width], resize_image(noise(size), (height, width)))


def test_the_outputs_of_a_made_image_are_in_its_own_frame() -> None:
    assert meta_of("one color", (4, 5)).output_size == (4, 5)
    other = meta_of("one color", (4, 5), (8, 9))
    assert (other.id, other.image_id, other.output_size) == ("one-color", NO_IMAGE, (8, 9))
