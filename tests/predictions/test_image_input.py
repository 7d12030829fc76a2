"""An image as a program has it becomes the pixels that a graph takes, or an error says what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detexport.contract import MAX_SIDE
from detexport.errors import DataError, InputError
from detexport.predictions.image_input import read_input


@pytest.mark.parametrize("wanted", ["RGB", "BGR"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_channels_are_brought_into_the_wanted_order(
    pixels: np.ndarray, kind: str, order: Any, wanted: Any
) -> None:
    given: Any = pixels if kind == "array" else torch.from_numpy(pixels).permute(2, 0, 1)
    found = read_input(given, order, wanted)
    expected = pixels.transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected if order == wanted else expected[::-1])
    assert found.flags.c_contiguous


@pytest.mark.parametrize("wanted", ["RGB", "BGR"])
def test_a_file_and_a_picture_know_their_channels(pixels: np.ndarray, photo: Path, wanted: Any) -> None:
    expected = read_input(pixels, "RGB", wanted)
    for given in (photo, str(photo), Image.open(photo), Image.fromarray(pixels)):
        np.testing.assert_array_equal(read_input(given, "BGR", wanted), expected)


def test_the_callers_image_stays_as_it_is(pixels: np.ndarray) -> None:
    given = pixels.copy()
    read_input(given, "RGB", "BGR")[:] = 0
    np.testing.assert_array_equal(given, pixels)


def test_a_tensor_that_trains_is_read() -> None:
    layers = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert read_input(layers[:, :, ::2].detach(), "RGB", "RGB").shape == (3, 4, 3)


def test_an_image_of_one_px_is_one() -> None:
    assert read_input(np.full((1, 1, 3), 7, np.uint8), "RGB", "BGR").tolist() == [[[7]], [[7]], [[7]]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"got: float32 \(4, 4, 3\).*multiply values 0..1 by 255"),
        (np.zeros((3, 4, 4), np.uint8), r"got: uint8 \(3, 4, 4\).*image.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4), np.uint8), r"expected: uint8 \(height, width, 3\).*three colour channels"),
        (np.zeros((0, 4, 3), np.uint8), r"sides of 1 to"),
        (np.zeros((2, 4, 4, 3), np.uint8), "one image a call"),
        (torch.zeros(3, 4, 4), r"got: torch.float32 \(3, 4, 4\).*by 255"),
        (
            torch.zeros(4, 4, 3, dtype=torch.uint8),
            r"uint8 \(3, height, width\).*permute\(2, 0, 1\)",
        ),
        (None, r"got: NoneType; expected: a path"),
        (b"\x89PNG", "got: bytes; expected: a path"),
        (np.zeros((4, 4, 4), np.uint8), "three colour channels"),
        (np.broadcast_to(np.uint8(0), (MAX_SIDE + 1, 1, 3)), f"sides of 1 to {MAX_SIDE} px"),
        (np.zeros((), np.uint8), r"got: uint8 \(\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "one image a call"),
    ],
)
def test_what_is_not_an_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_input(image, "RGB", "RGB")


def test_an_order_of_channels_is_one_of_two(pixels: np.ndarray, photo: Path) -> None:
    order: Any = "rgb"
    with pytest.raises(InputError, match="unknown channel order; got: 'rgb'; expected: RGB or BGR"):
        read_input(pixels, order, "RGB")
    assert read_input(photo, order, "RGB").shape[0] == 3


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"a\.png"):
        read_input(tmp_path / "a.png", "RGB", "RGB")
