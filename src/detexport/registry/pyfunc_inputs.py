"""The images of a request: encoded files, base64, arrays and, where allowed, locations of files."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow.artifacts
import numpy as np
from mlflow.exceptions import MlflowException

from detexport.data.images import ChannelOrder, decode_base64, decode_image, read_image
from detexport.errors import ConfigError, DataError
from detexport.predictions.image_input import read_input

ALLOWED = "allowed_uris"
"""The entry of a model's ``model_config`` that lists the folders and URIs that requests may name."""
LONGEST_LOCATION = 2_000
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
# Redirects and DNS lead such a URL anywhere, whatever it begins with.
REFUSED_SCHEMES = ("http", "https", "ftp", "ftps")


def checked_locations(allowed: Any) -> tuple[str, ...]:
    """Return the locations that requests may name, from a model's configuration.

    Raises:
        ConfigError: they are not a list of absolute paths and URIs of artifact stores.
    """
    wrong = (
        [one for one in allowed if not (isinstance(one, str) and _is_allowable(one))]
        if isinstance(allowed, list | tuple)
        else [allowed]
    )
    if wrong:
        raise ConfigError(
            f"{ALLOWED} cannot be used",
            got=wrong[0],
            expected="a list of absolute folders and of URIs of an artifact store (file, mlflow-artifacts, "
            "runs, models, s3, ...)",
            remedy="list the folders and URIs that requests may name; an empty list allows none",
        )
    return tuple(allowed)


def _is_allowable(location: str) -> bool:
    if SCHEME.match(location):
        return urlsplit(location).scheme not in REFUSED_SCHEMES
    return location.startswith("/")


def read_value(value: Any, order: ChannelOrder, allowed: Sequence[str] = ()) -> np.ndarray:
    """Return the pixels of one image of a request.

    Args:
        value: an encoded image file (PNG, JPEG) as bytes; the same in base64, as text or ASCII bytes, also as
            a data URI; an array (H, W, 3) uint8, RGB, or its nested lists; the absolute path or the URI of an
            encoded file.
        order: channel order of the result.
        allowed: folders and URIs below which a path or a URI may be.

    Returns:
        uint8 (3, H, W).

    Raises:
        DataError: it is none of these, or a location that is not allowed. The message does not repeat it.
        InputError: an array of another shape or dtype.
    """
    if isinstance(value, np.ndarray):
        return read_input(value, "RGB", order)
    if isinstance(value, list):
        return read_input(_array(value), "RGB", order)
    if isinstance(value, bytes | bytearray | memoryview):
        encoded = bytes(value)
        # MLflow passes the base64 of `inputs` as bytes. No PNG, JPEG, GIF, BMP, TIFF or WebP is ASCII.
        if not encoded.isascii() or b"\0" in encoded or not encoded:
            return decode_image(encoded, order)
        value = encoded.decode("ascii")
    if not isinstance(value, str):
        raise _not_an_image(f"a value of type {type(value).__name__}")
    if _is_location(value):
        return _read_location(value, order, allowed)
    return decode_image(_decode(value), order)


def _array(values: list[Any]) -> np.ndarray:
    """Return nested lists as an array, uint8 if the values fit; MLflow writes those of JSON as text."""
    try:
        array = np.asarray(values)
        array = array.astype(np.int64) if array.dtype.kind == "S" else array
    except ValueError:
        raise _not_an_image("lists of different lengths") from None
    fits = array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255
    return array.astype(np.uint8) if fits else array


def _decode(text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as error:  # also of text that is not ASCII
        raise _not_an_image(f"{len(text)} characters that are not base64") from error


def _not_an_image(got: str) -> DataError:
    return DataError(
        "this is not an encoded image",
        got=got,
        expected="the bytes of a PNG or JPEG file, those in base64, or an array (height, width, 3) uint8",
        remedy="send the image file itself",
    )


def _is_location(text: str) -> bool:
    """Return whether a text is a URI, or a path: base64 of a JPEG begins with a slash, too."""
    if len(text) > LONGEST_LOCATION or text[:5].lower() == "data:":
        return False
    return bool(SCHEME.match(text)) or (text.startswith("/") and not BASE64.fullmatch("".join(text.split())))


def _read_location(location: str, order: ChannelOrder, allowed: Sequence[str]) -> np.ndarray:
    """Read the image file at a location below an allowed one.

    Raises:
        DataError: the location is not allowed, or there is no image file.
    """
    path = _local_path(location)
    below = any(_is_below(location, path, one) for one in allowed)
    if not below:
        raise DataError(
            "the model may not read this location" if allowed else "the model reads no paths and no URIs",
            expected=f"a location below one that the model's configuration {ALLOWED} lists"
            if allowed
            else "the image itself",
            remedy=f"send the image file itself, or load the model with model_config {{'{ALLOWED}': [...]}}",
        )
    if path is not None:
        return read_image(path, order)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            found = Path(mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=temporary))
        except (MlflowException, OSError) as error:
            raise DataError(
                "the location cannot be read",
                got=type(error).__name__,
                expected="an image file that this process can read",
                remedy="check the location and its credentials, or send the image file itself",
            ) from error
        if not found.is_file():
            raise DataError(
                "the location is not a file",
                got="a folder",
                expected="the URI of an image file",
                remedy="name one file",
            )
        return decode_image(found.read_bytes(), order)


def _local_path(location: str) -> Path | None:
    """Return the path that a location names, without links and ``..``; None if it is not local."""
    if not SCHEME.match(location):
        return Path(location).resolve()
    parts = urlsplit(location)
    return Path(unquote(parts.path)).resolve() if parts.scheme == "file" and not parts.netloc else None


def _is_below(location: str, path: Path | None, allowed: str) -> bool:
    """Return whether a location is below an allowed one."""
    folder = _local_path(allowed)
    if path is not None or folder is not None:
        return path is not None and folder is not None and path.is_relative_to(folder)
    plain = not (set(unquote(unquote(location)).split("/")) & {"..", "."}) and not set("?#\\") & set(location)
    return plain and location.startswith(f"{allowed.rstrip('/')}/")
