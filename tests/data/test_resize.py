"""Resizing: the shortest-edge rule, and pixels equal to PIL's."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from detexport.contract import ResizeRule
from detexport.data.resize import resize_image, resized_size
from detexport.errors import OutOfMemoryError


@pytest.mark.parametrize(
    ("size", "rule", "scale", "expected"),
    [
        ((480, 640), ResizeRule(800, 1333), 1.0, (800, 1067)),
        ((427, 640), ResizeRule(800, 1333), 1.0, (800, 1199)),
        ((640, 427), ResizeRule(800, 1333), 1.0, (1199, 800)),
        ((300, 1000), ResizeRule(800, 1333), 1.0, (400, 1333)),  # limited by the longest edge
        ((1000, 300), ResizeRule(800, 1333), 1.0, (1333, 400)),
        ((480, 641), ResizeRule(240, 1333), 1.0, (240, 321)),  # 320.5 is rounded up
        ((600, 600), ResizeRule(800, 1333), 1.0, (800, 800)),
        ((800, 1333), ResizeRule(800, 1333), 1.0, (800, 1333)),
        ((128, 176), ResizeRule(0, 0), 1.0, (128, 176)),
        ((128, 175), ResizeRule(0, 0), 1.5, (192, 263)),  # 262.5
        ((100, 200), ResizeRule(50, 1000), 0.5, (25, 50)),
        ((1, 4000), ResizeRule(800, 1333), 1.0, (1, 1333)),  # at least 1 px
    ],
)
def test_resized_size(
    size: tuple[int, int], rule: ResizeRule, scale: float, expected: tuple[int, int]
) -> None:
    assert resized_size(*size, rule, scale) == expected


@pytest.mark.parametrize(("height", "width", "scale"), [(0, 10, 1.0), (10, -1, 1.0), (10, 10, 0.0)])
def test_sizes_that_are_not_positive(height: int, width: int, scale: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        resized_size(height, width, ResizeRule(0, 0), scale)


@pytest.mark.parametrize("size", [(20, 31), (80, 75), (40, 50)])
def test_resize_image_is_pils_bilinear(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    resized = resize_image(image, size)
    assert resized.dtype == np.uint8
    assert resized.shape == (3, *size)
    assert resized.flags.c_contiguous
    for channel, expected in zip(resized, image, strict=True):  # each channel separately
        alone = Image.fromarray(expected).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(channel, np.asarray(alone))


def test_a_view_with_swapped_channels_is_resized_as_its_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 10, 14), dtype=np.uint8)[::-1]
    np.testing.assert_array_equal(resize_image(image, (5, 7)), resize_image(image.copy(), (5, 7)))


@pytest.mark.parametrize(
    "image", [np.zeros((3, 4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)]
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        resize_image(image, (2, 2))


def test_reading_and_resizing_need_no_torch() -> None:
    code = "import sys, detexport.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_lack_of_memory_is_reported() -> None:
    with pytest.raises(OutOfMemoryError, match="got: image 3 x 2 x 2, "):
        resize_image(np.zeros((3, 2, 2), np.uint8), (1, 2**30))
