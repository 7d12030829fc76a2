"""Blank images, noise, mosaics and blends: their sizes and their values."""

from itertools import pairwise

import numpy as np
import pytest

from detexport.data.resize import resize_image
from detexport.reference.image_ops import Blend, fitting, grids, mosaic, noise, plain

SIZE = (40, 50)


def test_a_blank_image_has_one_value_or_one_a_channel_rounded() -> None:
    gray, colored = plain((2, 3), (7.5,)), plain((2, 3), (0.4, 103.53, 255.0))
    assert (gray.shape, gray.dtype) == ((3, 2, 3), np.uint8)
    assert (gray == 8).all()
    assert [np.unique(channel).tolist() for channel in colored] == [[0], [104], [255]]


def test_noise_has_all_values_and_follows_from_its_seed() -> None:
    image = noise((64, 64))
    assert (image.shape, image.dtype) == ((3, 64, 64), np.uint8)
    assert len(np.unique(image)) == 256
    np.testing.assert_array_equal(image, noise((64, 64), seed=0))
    assert (image != noise((64, 64), seed=1)).mean() > 0.99


def test_a_mosaic_has_its_images_in_its_cells_row_by_row() -> None:
    images = [plain((9, 5), (value,)) for value in (10.0, 20.0, 30.0)]
    made = mosaic(images, 2, 2, (7, 9))
    cells = [made[:, :3, :4], made[:, :3, 4:], made[:, 3:, :4], made[:, 3:, 4:]]
    assert [np.unique(cell).tolist() for cell in cells] == [[10], [20], [30], [10]]


def test_a_cell_holds_the_whole_image_resized() -> None:
    image = noise((30, 40))
    made = mosaic([image], 1, 2, (15, 41))
    np.testing.assert_array_equal(made[:, :, :20], resize_image(image, (15, 20)))
    np.testing.assert_array_equal(made[:, :, 20:], resize_image(image, (15, 21)))
    np.testing.assert_array_equal(mosaic([image], 1, 1, (30, 40)), image)


def test_a_mosaic_may_have_cells_of_one_px() -> None:
    made = mosaic([plain(SIZE, (1.0,)), plain(SIZE, (2.0,))], 3, 3, (3, 3))
    assert made[0].tolist() == [[1, 2, 1], [2, 1, 2], [1, 2, 1]]


@pytest.mark.parametrize(
    ("size", "most_px", "fitted"),
    [
        ((300, 400), 120_000, (300, 400)),
        ((300, 400), 119_999, (299, 399)),
        ((300, 400), 30_000, (150, 200)),
        ((8, 8), 0.5, (1, 1)),
    ],
)
def test_a_size_is_reduced_in_its_aspect_ratio(
    size: tuple[int, int], most_px: float, fitted: tuple[int, int]
) -> None:
    assert fitting(size, most_px) == fitted


def test_a_size_of_usual_aspect_fits() -> None:
    for most_px in (1000, 5000, 77_777):
        height, width = fitting((480, 640), most_px)
        assert 0.97 * most_px - 100 < height * width <= most_px


def test_grids_grow_from_two_cells_a_side() -> None:
    assert list(grids(5)) == [2, 3, 5, 8, 13]
    assert list(grids(0)) == []


def test_a_blend_is_whole_at_its_ends_and_takes_steps_of_single_values_between() -> None:
    first, second = plain(SIZE, (10.0, 20.0, 250.0)), plain(SIZE, (200.0, 0.0, 255.0))
    blend = Blend(first, second)
    np.testing.assert_array_equal(blend(0.0), first)
    np.testing.assert_array_equal(blend(1.0), second)
    near, far = blend(0.5).astype(int), blend(0.5 + 2e-5).astype(int)
    changed = np.abs(near - far)
    assert 0 < np.count_nonzero(changed) < 20
    assert changed.max() == 1
    np.testing.assert_array_equal(Blend(first, second)(0.3), blend(0.3))
    # A value that does not change and the largest there is stay what they are.
    white = plain(SIZE, (255.0,))
    np.testing.assert_array_equal(Blend(white, white)(0.7), white)


def test_every_value_of_a_blend_goes_one_way_in_single_steps() -> None:
    first, second = noise(SIZE, seed=1), noise(SIZE, seed=2)
    blend, towards = Blend(first, second, seed=3), np.sign(second.astype(int) - first)
    images = [blend(fraction).astype(int) for fraction in np.linspace(0, 1, 300)]
    for before, after in pairwise(images):
        assert np.isin((after - before) * towards, (0, 1)).all()
    assert len({image.tobytes() for image in images}) == len(images)
