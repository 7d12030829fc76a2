"""Find the external data files of an ONNX model, from its bytes and without the onnx package.

A runtime opens these files by itself, so an artifact's manifest must list them. Only the fields that lead to
a tensor are followed: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, in the wire format of
https://protobuf.dev/programming-guides/encoding/.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

# Message -> field number -> type of the message in the field; all other fields are skipped.
FIELDS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
KEY, VALUE = 1, 2
"""Fields of an ``Entry`` (StringStringEntryProto)."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""
MAX_VARINT_BYTES = 10


def external_files(path: Path) -> set[str]:
    """Return the locations of a model's external data as stored: relative to the model's folder.

    Args:
        path: an ONNX model.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty or not a protobuf message.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path.name} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return set(_locations(data))


def _locations(data: mmap.mmap) -> Iterator[str]:
    waiting = [("Model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        if message == "Entry":
            entry = {number: data[first:last] for number, first, last in _fields(data, start, end)}
            if entry.get(KEY) == b"location":
                yield entry.get(VALUE, b"").decode("utf-8")
            continue
        inner = FIELDS[message]
        for number, first, last in _fields(data, start, end):
            if number in inner:
                waiting.append((inner[number], first, last))


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number, start and end of each length-delimited field of a message.

    Raises:
        ValueError: the bytes are not a message.
    """
    while at < end:
        tag, at = _varint(data, at, end)
        wire_type = tag & 7
        if wire_type == VARINT:
            _, at = _varint(data, at, end)
        elif wire_type == BYTES:
            size, at = _varint(data, at, end)
            yield tag >> 3, at, at + size if at + size <= end else _malformed()
            at += size
        elif wire_type in (FIXED64, FIXED32):
            at += 8 if wire_type == FIXED64 else 4
        else:
            _malformed()
    if at != end:
        _malformed()


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return the varint (seven bits per byte) at a position, and the position after it."""
    value = 0
    for shift in range(MAX_VARINT_BYTES):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at
    return _malformed()


def _malformed() -> NoReturn:
    raise ValueError("the model is not a valid ONNX file: a field is truncated or malformed")
