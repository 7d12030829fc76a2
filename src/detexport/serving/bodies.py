"""Read the encoded images and parameters of a request: a raw image, multipart, or MLflow's JSON.

Messages name types, counts and positions, never content of the body.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detexport.data.images import decode_base64
from detexport.predictions.predict_images import MASKS, THRESHOLD
from detexport.serving.limits import Limits, RequestError
from detexport.system.extras import extra_imports
from detexport.system.json_values import parse_json

with extra_imports():
    import python_multipart  # noqa: F401  (starlette's parser needs it)
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

COLUMN = "image"
FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
RAW_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded", "")
"""Content types of a raw body beside ``image/*``: unknown bytes, and what curl and others send by default."""
SHOWN_TYPE = 60
"""Most characters of a content type in a message."""


@dataclass(frozen=True)
class Call:
    """What a request asks for.

    Args:
        images: the bytes of each image file.
        score_threshold: instances with a greater score are returned.
        masks: False leaves out the masks of instances.
    """

    images: tuple[bytes, ...]
    score_threshold: float = 0.0
    masks: bool = True


async def read_call(
    body: bytes,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    limits: Limits,
    *,
    allowed: Sequence[str],
) -> Call:
    """Read a request in any of its three forms.

    Args:
        body: the request's body.
        headers: its headers.
        query: the parameters in its URL, for a raw image or multipart.
        limits: those of the server.
        allowed: the parameters that a request may have, see
            ``detexport.predictions.predict_images.parameters_of``.

    Raises:
        RequestError: the body does not have the form of its content type, or a parameter is wrong.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError(415, "the body is compressed", expected="a body without Content-Encoding")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        # In a thread: a large body would keep the server from answering others.
        content_type = headers.get("content-type", "")
        return await asyncio.to_thread(read_json, body, content_type, limits, allowed=allowed)
    if kind == "multipart/form-data":
        images, fields = await _read_multipart(body, headers, limits)
        if fields.keys() & query.keys():
            raise RequestError(400, "a parameter is given twice", expected="the form or the URL")
        parameters = {**query, **fields}
    elif kind.startswith("image/") or kind in RAW_TYPES:
        if not body:
            raise RequestError(400, "the body is empty", expected="the bytes of an image file")
        images, parameters = [body], dict(query)
    else:
        raise RequestError(
            415,
            "unsupported content type",
            got=kind[:SHOWN_TYPE],
            expected="image/*, application/octet-stream, multipart/form-data or application/json",
        )
    return Call(tuple(images), *_read_parameters(parameters, allowed, as_text=True))


def read_json(body: bytes, content_type: str, limits: Limits, *, allowed: Sequence[str]) -> Call:
    """Read MLflow's JSON, as its scoring server reads it.

    Args:
        body: an object with exactly one of ``FORMATS`` and optional ``params``. Columns other than ``image``
            are ignored, as MLflow ignores what is not in a model's signature.
        content_type: the request's content type with its parameters.
        limits: those of the server.
        allowed: the parameters that a request may have, see
            ``detexport.predictions.predict_images.parameters_of``.

    Raises:
        RequestError: the body is not such an object.
    """
    _check_charset(content_type)
    try:
        document = parse_json(body)
    except ValueError:  # its message would repeat the body
        raise RequestError(
            400,
            "the body is not valid JSON in UTF-8",
            got=f"{len(body)} bytes",
            expected=f"an object with one of {', '.join(FORMATS)}",
        ) from None
    if not isinstance(document, dict):
        raise RequestError(400, "the JSON is not an object", got=_type(document), expected="an object")
    given = [name for name in FORMATS if name in document]
    if len(given) != 1 or len(document) > 1 + ("params" in document):
        raise RequestError(
            400,
            "the JSON must hold exactly one input field, and beside it only params",
            got=f"{len(document)} fields, of them inputs: {', '.join(given) or 'none'}",
            expected=f"one of {', '.join(FORMATS)}",
        )
    params = document.get("params")
    if not (params is None or isinstance(params, dict)):
        raise RequestError(400, "params is not an object", got=_type(params), expected="an object")
    given_params = _read_parameters(params or {}, allowed, as_text=False)
    cells = _column(given[0], document[given[0]])
    if len(cells) > limits.images:
        raise _too_many(len(cells), limits)
    return Call(tuple(_decode(cell, row) for row, cell in enumerate(cells)), *given_params)


def _check_charset(content_type: str) -> None:
    """Refuse a character set other than UTF-8."""
    for part in content_type.split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise RequestError(415, "the server reads only UTF-8", expected="charset=utf-8, or none")


def _column(name: str, value: Any) -> list[Any]:
    """Return the cells of the column ``image``."""
    if name == "dataframe_split":
        return _split_column(value)
    if name in ("inputs", "instances") and isinstance(value, dict):
        cells = value.get(COLUMN)
        if cells is None:
            raise _no_column(f"{len(value)} other columns")
        return cells if isinstance(cells, list) else [cells]
    if not isinstance(value, list):
        raise RequestError(
            400, f"{name} is not a list", got=_type(value), expected=f'[{{"{COLUMN}": "<base64>"}}]'
        )
    if name != "dataframe_records" and not any(isinstance(row, dict) for row in value):
        return value
    for index, row in enumerate(value):
        if not (isinstance(row, dict) and COLUMN in row):
            raise _no_column(f"row {index}: {_type(row)}")
    return [row[COLUMN] for row in value]


def _split_column(value: Any) -> list[Any]:
    columns, rows = (value.get("columns"), value.get("data")) if isinstance(value, dict) else (None, None)
    if not (isinstance(columns, list) and isinstance(rows, list)):
        raise RequestError(
            400,
            "dataframe_split has no lists 'columns' and 'data'",
            got=_type(value),
            expected=f'{{"columns": ["{COLUMN}"], "data": [["<base64>"]]}}',
        )
    if columns.count(COLUMN) != 1:
        raise _no_column(f"{len(columns)} columns")
    place = columns.index(COLUMN)
    for index, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == len(columns)):
            raise RequestError(
                400,
                f"row {index} of dataframe_split does not fit its columns",
                got=f"{_type(row)} of {len(row)}" if isinstance(row, list) else _type(row),
                expected=f"a list of {len(columns)}",
            )
    return [row[place] for row in rows]


def _decode(cell: Any, row: int) -> bytes:
    """Return the bytes of an image in base64, also as a data URI or with line breaks."""
    if not isinstance(cell, str):
        raise RequestError(
            400,
            f"row {row} is not an encoded image",
            got=_type(cell),
            expected="the bytes of an image file in base64",
            remedy="send the bytes of the file, not its pixels",
        )
    try:
        return decode_base64(cell)
    except ValueError:
        raise RequestError(
            400,
            f"row {row} is not base64",
            got=f"a string of {len(cell)} characters",
            expected="the bytes of an image file in base64",
        ) from None


async def _read_multipart(
    body: bytes, headers: Mapping[str, str], limits: Limits
) -> tuple[list[bytes], dict[str, str]]:
    """Return the files of the field ``image``, and the other fields."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers(dict(headers)), stream(), max_files=limits.images, max_fields=10, max_part_size=10_000
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        if "Too many files" in str(error):
            raise _too_many(f"more than {limits.images}", limits) from None
        raise RequestError(
            400,
            "the multipart body cannot be read",
            expected=f"a boundary in the content type, and each image file in a field '{COLUMN}'",
            remedy=f"curl -F {COLUMN}=@photo.jpg",
        ) from None
    images: list[bytes] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name == COLUMN:
            images.append(await value.read())
        elif isinstance(value, str) and name != COLUMN and name not in fields:
            fields[name] = value
        else:
            raise RequestError(
                400,
                "a field of the form is not expected",
                got="a file in another field"
                if isinstance(value, UploadFile)
                else "a text, or a field twice",
                expected=f"files in '{COLUMN}', and parameters",
            )
    if not images:
        raise RequestError(400, "the form holds no image", expected=f"a file in the field '{COLUMN}'")
    return images, fields


def _read_parameters(
    parameters: Mapping[str, Any], allowed: Sequence[str], *, as_text: bool
) -> tuple[float, bool]:
    """Return a request's score threshold, 0 by default, and whether it wants masks, True by default.

    Args:
        parameters: values by name; null is the default.
        allowed: names that the request may have.
        as_text: whether the values are text, as in a URL or a form.

    Raises:
        RequestError: a value is wrong, or there are other parameters.
    """
    if unknown := len(parameters.keys() - set(allowed)):
        raise RequestError(
            400,
            "unknown parameters",
            got=f"{unknown} of {len(parameters)}",
            expected=f"only {' and '.join(allowed)}" if allowed else "none: this model predicts no instances",
        )
    given = {name: value for name, value in parameters.items() if value is not None}
    threshold, masks = given.get(THRESHOLD, 0.0), given.get(MASKS, True)
    if as_text and isinstance(masks, str):
        masks = {"true": True, "1": True, "false": False, "0": False}.get(masks.lower())
    if not isinstance(masks, bool):
        raise RequestError(400, f"{MASKS} is not a boolean", expected="true or false")
    return _read_threshold(threshold, as_text=as_text), masks


def _read_threshold(given: Any, *, as_text: bool) -> float:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    try:
        value = float(given) if is_number or (as_text and isinstance(given, str)) else -1.0
    except (ValueError, OverflowError):
        value = -1.0
    if not 0 <= value <= 1:
        what = f"{THRESHOLD} is out of range"
        raise RequestError(400, what, got=_type(given), expected="a number in [0, 1]")
    return value


def _no_column(got: str) -> RequestError:
    return RequestError(400, f"there is no column '{COLUMN}'", got=got, expected=f"one column '{COLUMN}'")


def _too_many(count: object, limits: Limits) -> RequestError:
    return RequestError(
        413,
        "too many images in one request",
        got=count,
        expected=f"at most {limits.images}",
        remedy="send several requests",
    )


def _type(value: Any) -> str:
    """Name a JSON value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
