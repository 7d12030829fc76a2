"""Reading of image files; all image files are decoded here.

An image is rotated upright by its EXIF orientation; an unreadable orientation is ignored. The first frame of
an animated image is read, and the first page of a TIFF. Images have 8 bits per channel, sides of 1 to
``MAX_SIDE`` px, and at most ``MAX_PIXELS`` pixels, unless the environment variable
``DETEXPORT_MAX_IMAGE_PIXELS`` (set by ``--max-image-pixels``) gives another limit: time and memory of
later steps grow with the number of pixels.
"""

import base64
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image

from detexport.contract import MAX_SIDE
from detexport.errors import ConfigError, DataError, DetexportError, ImageSizeError, memory_guard

MAX_PIXELS = 50_000_000
"""Maximum number of pixels of an image, unless the environment sets another limit."""

LIMIT_VARIABLE = "DETEXPORT_MAX_IMAGE_PIXELS"

# More than 8 bits per channel: PIL would clip the values instead of scaling them.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

# The operation that makes an image upright, by EXIF orientation: EXIF 2.32, tag 0x0112.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)

ChannelOrder = Literal["RGB", "BGR"]
_PIL_LIMIT = threading.Lock()


def max_image_pixels() -> int:
    """Return the maximum number of pixels of an image.

    Raises:
        ConfigError: the environment variable is not a positive integer.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip().replace("_", "")
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ConfigError(
            f"the environment variable {LIMIT_VARIABLE} is not a number of pixels",
            got=text[:50],
            expected="a positive integer, such as 100000000",
            remedy=f"set it, or unset it for the default of {MAX_PIXELS}",
        )
    return int(text)


def read_image(path: Path, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Read an image file, rotated upright by its EXIF orientation.

    Returns:
        uint8 (3, H, W) in ``channel_order``, values 0..255.

    Raises:
        DataError: the file does not exist, is not an image of 8 bits per channel, or is too large.
        OutOfMemoryError: there is not enough memory for the image.
    """
    _check_order(channel_order)
    with _opened(path) as image:
        return _pixels(image, channel_order, str(path))


def decode_image(encoded: bytes, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Decode the bytes of an image file, as ``read_image`` does."""
    _check_order(channel_order)
    with _opened(encoded) as image:
        return _pixels(image, channel_order, _name(encoded))


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64, also with a data URI's prefix and with MIME's lines of 76 characters.

    Raises:
        ValueError: it is not base64.
    """
    content = text.partition(",")[2] if text[:5].lower() == "data:" else text
    return base64.b64decode("".join(content.split()), validate=True)


def image_to_array(image: Image.Image, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Return the pixels of an image that PIL opened or made; as ``read_image``, upright as its EXIF says.

    Raises:
        DataError: it is not of 8 bits a channel, too large, or its file cannot be read to the end.
        OutOfMemoryError: the memory does not suffice for it.
    """
    _check_order(channel_order)
    name = getattr(image, "filename", "") or "the PIL image"
    with _readable(name):
        _check_limits(image, name)
        return _pixels(image, channel_order, name)


def read_label_map(path: Path) -> np.ndarray:
    """Read an image file whose pixels are labels.

    Returns:
        uint8 (H, W).

    Raises:
        DataError: the file does not exist, or is not an image with one channel of 8 bits.
    """
    with _opened(path) as image:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{path} is not a label map",
                got=f"PIL's mode {image.mode}",
                expected="an image with one channel of 8 bits, the label of each pixel",
                remedy="convert the image",
            )
        with memory_guard((image.height, image.width)):
            return np.array(image)


def read_segment_map(path: Path) -> np.ndarray:
    """Read COCO's panoptic PNG.

    Returns:
        int64 (H, W), the id of each pixel's segment: red + 256 green + 256² blue.

    Raises:
        DataError: the file does not exist, or is not an image of 8 bits per channel.
    """
    red, green, blue = read_image(path).astype(np.int64)
    return red + 256 * green + 256 * 256 * blue


def read_image_size(path: Path) -> tuple[int, int]:
    """Return the upright height and width in px of an image file; only the header is read.

    Raises:
        DataError: the file does not exist, or is not an image.
    """
    with _opened(path) as image:
        # PIL rotates a TIFF itself, and reports the rotated size.
        turned = image.format != "TIFF" and _orientation(image) in QUARTER_TURNS
        return (image.width, image.height) if turned else (image.height, image.width)


def check_image_size(path: Path | str, got: tuple[int, int], expected: tuple[int, int]) -> None:
    """Check that the height and width in px of an image are those in its annotations.

    Raises:
        DataError: they differ.
    """
    if got != expected:
        raise DataError(
            f"{path} has another size than in the annotations",
            got=f"height {got[0]}, width {got[1]} (upright by its EXIF orientation)",
            expected=f"height {expected[0]}, width {expected[1]}",
            remedy="correct height and width in the annotation file, or replace the image; if the "
            "annotations refer to the stored pixels, remove the image's EXIF orientation",
        )


def _check_order(channel_order: str) -> None:
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order is RGB or BGR, not {channel_order!r}")


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image and check the size in its header; raise PIL's errors in the block as ``DataError``."""
    with _readable(_name(source)), _file(source) as file, _open(file) as image:
        _check_limits(image, _name(source))
        yield image


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raise PIL's errors in the block as ``DataError``."""
    try:
        yield
    except DetexportError:
        raise
    except MemoryError:
        with memory_guard():
            raise
    # PIL's decoders raise errors of any type for broken files.
    except Exception as error:
        raise DataError(
            f"{name} cannot be read as an image",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            expected="a complete PNG, JPEG or other image file that PIL reads",
            remedy="replace the file",
        ) from error


def _name(source: Path | bytes) -> str:
    return f"the input of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def _file(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    # Opening a pipe or a device would block.
    if os.path.lexists(source) and not os.path.isfile(source):
        raise OSError("not a regular file")
    return Path(source).open("rb")


def _open(file: BinaryIO) -> Image.Image:
    """Open without PIL's own limit, so that only the limit of this module applies."""
    with _PIL_LIMIT:
        of_pil, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = of_pil


def _check_limits(image: Image.Image, name: str) -> None:
    limit = max_image_pixels()
    if not 1 <= min(image.size) <= max(image.size) <= MAX_SIDE:
        fault, remedy = f"sides of 1 to {MAX_SIDE} px", "replace the image, or resize it"
    elif image.width * image.height > limit:
        fault = f"at most {limit} pixels"
        remedy = f"resize it, or raise the limit: --max-image-pixels, or {LIMIT_VARIABLE} in the environment"
    else:
        return
    raise ImageSizeError(
        f"the size of {name} is out of range",
        got=f"{image.width} x {image.height} px, {image.width * image.height} pixels",
        expected=fault,
        remedy=remedy,
    )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in UPRIGHT else 1
    except Exception:  # PIL raises errors of any type for broken EXIF; the pixels can still be read
        return 1


def _pixels(image: Image.Image, channel_order: ChannelOrder, name: str) -> np.ndarray:
    if image.mode in DEEP_MODES:
        raise DataError(
            f"{name} is not an image of 8 bits per channel",
            got=f"PIL's mode {image.mode}",
            expected="8 bits per channel",
            remedy="convert the image",
        )
    with memory_guard((3, image.height, image.width)):
        image.load()
        orientation = _orientation(image)
        upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
        pixels = np.asarray(upright.convert("RGB"))
        channels = pixels if channel_order == "RGB" else pixels[..., ::-1]
        return np.ascontiguousarray(channels.transpose(2, 0, 1))
