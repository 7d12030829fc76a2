"""Image files as inputs of a graph: decoded, in the model's channels and size, one at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detexport.contract import ResizeRule
from detexport.data.image_samples import BUNDLED_SAMPLE, ImageSamples
from detexport.data.resize import resize_image
from detexport.errors import DataError

RULE = ResizeRule(min_size=20, max_size=30)
SIZES = [(40, 80), (80, 40), (50, 50)]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return paths


def test_every_image_has_the_size_of_the_rule(files: list[Path]) -> None:
    samples = ImageSamples(files, "RGB", RULE)
    assert len(samples) == 3
    assert [image.shape for image in samples] == [(3, 15, 30), (3, 30, 15), (3, 20, 20)]
    assert {image.dtype for image in samples} == {np.dtype(np.uint8)}


def test_channels_are_those_of_the_model(files: list[Path]) -> None:
    pixels = np.asarray(Image.open(files[0])).transpose(2, 0, 1)
    orders: list[Any] = ["RGB", "BGR"]
    (rgb, *_), (bgr, *_) = (ImageSamples(files, order, RULE) for order in orders)
    np.testing.assert_array_equal(rgb, resize_image(pixels, (15, 30)))
    np.testing.assert_array_equal(bgr, rgb[::-1])


def test_without_a_rule_images_keep_their_size(files: list[Path]) -> None:
    assert [image.shape[1:] for image in ImageSamples(files, "RGB", ResizeRule(0, 0))] == SIZES


def test_samples_are_read_again_and_only_as_far_as_needed(files: list[Path]) -> None:
    """Calibration iterates more than once; a broken file behind the last one used is not opened."""
    files[2].write_bytes(b"text")
    samples = ImageSamples(files, "RGB", RULE)
    for _ in range(2):
        iterator = iter(samples)
        assert (next(iterator).shape, next(iterator).shape) == ((3, 15, 30), (3, 30, 15))
    with pytest.raises(DataError, match=r"2\.png"):
        list(samples)


def test_no_file_is_no_sample() -> None:
    assert list(ImageSamples([], "RGB", RULE)) == []


def test_the_bundled_image_is_one() -> None:
    ((channels, height, width),) = [image.shape for image in ImageSamples([BUNDLED_SAMPLE], "RGB", RULE)]
    assert channels == 3
    assert 1 <= min(height, width) <= 20
