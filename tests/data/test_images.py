"""Reading of image files: formats, size limits and EXIF orientation."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detexport.data.images import LIMIT_VARIABLE, decode_image, read_image, read_image_size, read_label_map
from detexport.errors import ConfigError, DataError


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
    pixels[0, 0] = 255  # the upper left corner in the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "image.png").write_bytes(png(pixels, exif=exif))
    image = read_image(tmp_path / "image.png")
    # EXIF 2.32: sides of the 0th row and the 0th column in the upright image.
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


def test_sixteen_bits_are_refused_instead_of_clipped() -> None:
    with pytest.raises(DataError, match="8 bits per channel; got: PIL's mode I;16"):
        decode_image(png(np.full((3, 4), 1000, dtype=np.uint16)))


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "encoded",
    [b"", b"no image", png(NOISE)[:2000], png(NOISE)[:40], png(NOISE, "JPEG")[:600], png(NOISE, "GIF")[:300]],
    ids=["empty", "text", "cut PNG", "PNG header", "cut JPEG", "cut GIF"],
)
def test_incomplete_images_are_refused(tmp_path: Path, encoded: bytes) -> None:
    with pytest.raises(DataError, match=r"the input of .* cannot be read as an image"):
        decode_image(encoded)
    (tmp_path / "image").write_bytes(encoded)
    with pytest.raises(DataError, match=r"cannot be read as an image; got: .*; expected: .*; remedy: "):
        read_image(tmp_path / "image")


def test_a_missing_image_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_image(tmp_path / "none.png")


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for read in (read_image, read_label_map, read_image_size):
        for name in ("pipe.png", "folder.png"):
            with pytest.raises(
                DataError, match=f"{name} cannot be read as an image; got: .*not a regular file"
            ):
                read(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read as an image"):
            read(tmp_path / ("x" * 5000))


def header_of_png(width: int, height: int) -> bytes:
    """Return a PNG of few bytes whose header has this size."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(b"")}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


@pytest.mark.parametrize("size", [(8000, 6251), (60_000, 60_000)])
def test_a_large_image_is_refused_by_its_header(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.png").write_bytes(header_of_png(*size))
    pixels = size[0] * size[1]
    message = rf"got: {size[0]} x {size[1]} px, .*expected: at most 50000000 pixels; .*{LIMIT_VARIABLE}"
    warnings.simplefilter("error")  # PIL's own warning would be added
    for read in (read_image, read_image_size, read_label_map):
        with pytest.raises(DataError, match=message):
            read(tmp_path / "large.png")
    monkeypatch.setenv(LIMIT_VARIABLE, str(pixels))
    assert read_image_size(tmp_path / "large.png") == size[::-1]
    assert Image.MAX_IMAGE_PIXELS, "PIL's own limit stays what it was"


def test_a_side_beyond_the_limit_is_refused() -> None:
    with pytest.raises(DataError, match=r"got: 70000 x 2 px, .*expected: sides of 1 to 65535 px"):
        decode_image(header_of_png(70_000, 2))


@pytest.mark.parametrize("limit", ["many", "-1", "0", "1e6", "9" * 40])
def test_an_invalid_limit_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    with pytest.raises(ConfigError, match=f"{LIMIT_VARIABLE} is not a number of pixels"):
        decode_image(png(NOISE))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "WEBP", "PPM", "BMP", "GIF"])
@pytest.mark.parametrize("orientation", [1, 6, 9])
def test_the_size_in_the_header_is_that_of_the_decoded_image(
    tmp_path: Path, image_format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if image_format in ("PNG", "JPEG", "TIFF", "WEBP") else {}
    path = tmp_path / f"image.{image_format.lower()}"
    path.write_bytes(png(NOISE[:20], image_format, **options))
    height, width = (40, 20) if options and orientation == 6 else (20, 40)
    assert read_image_size(path) == (height, width)
    assert read_image(path).shape == (3, height, width)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_ignored() -> None:
    broken = b"Exif\0\0" + b"MM\0*" + b"\xff" * 40
    pixels = decode_image(png(NOISE[:20], exif=broken))
    np.testing.assert_array_equal(pixels, NOISE[:20].transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    with io.BytesIO() as buffer:
        Image.fromarray(NOISE).convert(mode).save(buffer, "TIFF")
        image = decode_image(buffer.getvalue())
    assert (image.shape, image.dtype) == ((3, 40, 40), np.uint8)
    expected = np.asarray(Image.fromarray(NOISE).convert(mode).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(image, expected)


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    with io.BytesIO() as buffer:
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
        image = decode_image(buffer.getvalue())
    assert (image[0] == 255).all()
    assert (image[1:] == 0).all()
