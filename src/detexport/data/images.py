"""Reading images: the one place where the bytes of an image file become an array.

An image is read upright, as its EXIF orientation says; an orientation that cannot be read counts as none. Of
an animated image the first frame is read, of a TIFF the first page. Images have 8 bits a channel, sides of 1
to ``MAX_SIDE`` px, and at most ``MAX_PIXELS`` pixels, unless the environment variable
``DETEXPORT_MAX_IMAGE_PIXELS`` gives another limit: time and memory of whatever follows grow with the pixels.
"""

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
from detexport.errors import ConfigError, DataError, DetexportError, memory_guard

MAX_PIXELS = 50_000_000
"""Most pixels of an image, unless the environment gives another limit."""

LIMIT_VARIABLE = "DETEXPORT_MAX_IMAGE_PIXELS"

# More bits a channel than 8: PIL would cut their values off instead of scaling them.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

# What makes an image upright, by its EXIF orientation: EXIF 2.32, tag 0x0112.
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
    """Most pixels of an image that is read.

    Raises:
        ConfigError: the environment variable is not a whole number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip().replace("_", "")
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ConfigError(
            f"the environment variable {LIMIT_VARIABLE} is not a number of pixels",
            got=text[:50],
            expected="a whole number from 1, such as 100000000",
            remedy=f"set it, or unset it for the default of {MAX_PIXELS}",
        )
    return int(text)


def read_image(path: Path, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Read an image file, upright as its EXIF orientation says.

    Returns:
        uint8 (3, H, W) in ``channel_order``, values 0..255.

    Raises:
        DataError: there is no such file, or it is not an image of 8 bits a channel, or it is too large.
        OutOfMemoryError: the memory does not suffice for it.
    """
    _check_order(channel_order)
    with _opened(path) as image:
        return _pixels(image, channel_order, str(path))


def decode_image(encoded: bytes, channel_order: ChannelOrder = "RGB") -> np.ndarray:
    """Decode an image file's bytes; as ``read_image``."""
    _check_order(channel_order)
    with _opened(encoded) as image:
        return _pixels(image, channel_order, _name(encoded))


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
        DataError: there is no such file, or it is not an image of one channel of 8 bits.
    """
    with _opened(path) as image:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{path} is not a map of labels",
                got=f"PIL's mode {image.mode}",
                expected="an image of one channel of 8 bits, the label of each pixel",
                remedy="convert the image",
            )
        with memory_guard((image.height, image.width)):
            return np.array(image)


def read_segment_map(path: Path) -> np.ndarray:
    """Read COCO's panoptic PNG.

    Returns:
        int64 (H, W), the id of each pixel's segment: red + 256 green + 256² blue.

    Raises:
        DataError: there is no such file, or it is not an image of 8 bits a channel.
    """
    red, green, blue = read_image(path).astype(np.int64)
    return red + 256 * green + 256 * 256 * blue


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width in px of an image file, upright; reads no more than its header.

    Raises:
        DataError: there is no such file, or it is not an image.
    """
    with _opened(path) as image:
        # PIL turns a TIFF itself, and says so from the start.
        turned = image.format != "TIFF" and _orientation(image) in QUARTER_TURNS
        return (image.width, image.height) if turned else (image.height, image.width)


def check_image_size(path: Path | str, got: tuple[int, int], expected: tuple[int, int]) -> None:
    """Check that an image has the height and width in px that its annotations have.

    Raises:
        DataError: it has not.
    """
    if got != expected:
        raise DataError(
            f"{path} is not of the size that its record in the annotations has",
            got=f"height {got[0]}, width {got[1]} (upright, as its EXIF orientation says)",
            expected=f"height {expected[0]}, width {expected[1]}",
            remedy="correct height and width in the annotation file, or replace the image; where the "
            "annotations are of the stored pixels, remove the image's EXIF orientation",
        )


def _check_order(channel_order: str) -> None:
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order is RGB or BGR, not {channel_order!r}")


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image and check its size by the header; what PIL raises in the block becomes ``DataError``."""
    with _readable(_name(source)), _file(source) as file, _open(file) as image:
        _check_limits(image, _name(source))
        yield image


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raise ``DataError`` for what PIL raises in the block."""
    try:
        yield
    except DetexportError:
        raise
    except MemoryError:
        with memory_guard():
            raise
    # PIL's decoders raise whatever a broken file leads them to.
    except Exception as error:
        raise DataError(
            f"{name} cannot be read as an image",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            expected="a whole PNG, JPEG or other image file that PIL reads",
            remedy="replace the file",
        ) from error


def _name(source: Path | bytes) -> str:
    return f"the input of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def _file(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    # A pipe or a device would be waited for.
    if os.path.lexists(source) and not os.path.isfile(source):
        raise OSError("not a regular file")
    return Path(source).open("rb")


def _open(file: BinaryIO) -> Image.Image:
    """Open without PIL's own limit, which hides the size from ours, or is below one that was raised."""
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
        remedy = f"resize the image, or raise the limit: set {LIMIT_VARIABLE} in the environment"
    else:
        return
    raise DataError(
        f"the size of {name} is out of range",
        got=f"{image.width} x {image.height} px, {image.width * image.height} pixels",
        expected=fault,
        remedy=remedy,
    )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in UPRIGHT else 1
    except Exception:  # broken EXIF, of which PIL raises whatever it stumbles over; the pixels are there
        return 1


def _pixels(image: Image.Image, channel_order: ChannelOrder, name: str) -> np.ndarray:
    if image.mode in DEEP_MODES:
        raise DataError(
            f"{name} is not an image of 8 bits a channel",
            got=f"PIL's mode {image.mode}",
            expected="8 bits a channel",
            remedy="convert the image",
        )
    with memory_guard((3, image.height, image.width)):
        image.load()
        orientation = _orientation(image)
        upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
        pixels = np.asarray(upright.convert("RGB"))
        channels = pixels if channel_order == "RGB" else pixels[..., ::-1]
        return np.ascontiguousarray(channels.transpose(2, 0, 1))
