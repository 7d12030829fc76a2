"""Decode untrusted JSON into dataclasses: each value is checked against the annotation of its field."""

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from detexport.errors import LONGEST_SHOWN, DetexportError, shown

MAX_DEPTH = 16
"""Largest nesting of lists and objects in a value annotated as ``Any``."""
MAX_INT = 2**63 - 1


def parse_json(data: bytes) -> Any:
    """Parse UTF-8 encoded JSON.

    Raises:
        ValueError: it is not JSON, is nested too deeply for the parser, or has a number of too many digits.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None


def decode(value: Any, kind: Any, place: str) -> Any:
    """Convert a parsed JSON value to the type of an annotation.

    Numbers keep their type (an int for a ``float`` stays an int), so that the value's digest does not change.

    Args:
        value: the result of ``parse_json``; a tuple counts as a list.
        kind: a dataclass (all its fields and no others), a ``TypedDict`` (its keys, among others), ``dict``,
            ``tuple`` and ``list`` with parameters, ``Literal``, a ``StrEnum``, a union, ``str``, ``bool``,
            ``int`` (64 bits), ``float`` (finite), ``None``, or ``Any`` (at most ``MAX_DEPTH`` levels).
        place: the value's path in messages, such as ``"artifact.json"``.

    Raises:
        ValueError: the value, or one in it, has another type; the message has its path.
    """
    origin, of = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return _decode_union(value, of, place)
    if isinstance(value, dict):
        if is_dataclass(kind):
            return _decode_dataclass(value, kind, place)
        if is_typeddict(kind):
            return value | _decode_fields(value, get_type_hints(kind), kind.__required_keys__, place)
        if origin is dict:
            return {
                decode(name, str, place): decode(item, of[1], _join(place, name))
                for name, item in value.items()
            }
    if isinstance(value, list | tuple) and origin in (tuple, list):
        return _decode_items(value, origin, of, place)
    if kind is Any:
        return _plain(value, place, MAX_DEPTH)
    if origin is Literal and value in of:
        return value
    if isinstance(kind, type) and issubclass(kind, StrEnum) and value in list(kind):
        return kind(value)
    if _is_scalar(value, kind):
        return value
    raise ValueError(f"{place}: {shown(value)}, expected {_describe(kind)}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode_dataclass(value: dict[str, Any], kind: Any, place: str) -> Any:
    hints = {field.name: _hints(kind)[field.name] for field in fields(kind)}
    unknown = [name for name in value if name not in hints]
    if unknown:
        raise ValueError(f"{_join(place, unknown[0])}: unknown field")
    required = {
        field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING
    }
    try:
        return kind(**_decode_fields(value, hints, required, place))
    except DetexportError as error:  # from the class's own checks
        raise ValueError(f"{place}: {error}") from error


def _decode_fields(value: dict[str, Any], hints: dict[str, Any], required: Any, place: str) -> dict[str, Any]:
    for name in hints:
        if name in required and name not in value:
            raise ValueError(f"{_join(place, name)}: missing")
    return {
        name: decode(value[name], hint, _join(place, name)) for name, hint in hints.items() if name in value
    }


def _decode_items(value: list[Any] | tuple[Any, ...], origin: Any, of: tuple[Any, ...], place: str) -> Any:
    kinds = [of[0]] * len(value) if origin is list or of[-1] is ... else list(of)
    if len(kinds) != len(value):
        raise ValueError(f"{place}: {len(value)} items, expected {len(kinds)}")
    return origin(
        decode(item, kind, f"{place}[{index}]")
        for index, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _decode_union(value: Any, kinds: tuple[Any, ...], place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    first = None
    for kind in kinds:
        try:
            return decode(value, kind, place)
        except ValueError as error:
            first = first or error
    raise first or ValueError(place)


def _plain(value: Any, place: str, depth: int) -> Any:
    """Check any JSON value: finite numbers, 64-bit integers, valid text, at most ``depth`` levels."""
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"{place}: nested more than {MAX_DEPTH} deep")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            inner = f"{place}[{name}]" if isinstance(value, list) else _join(place, name)
            _plain(item, inner, depth - 1)
            _plain(name, place, 0)
    elif not (value is None or any(_is_scalar(value, kind) for kind in (str, bool, int, float))):
        raise ValueError(f"{place}: {shown(value)}, expected a finite number or valid text")
    return value


def _is_scalar(value: Any, kind: Any) -> bool:
    """Return whether a value is of a scalar type and in its range."""
    if kind is type(None) or kind is None:
        return value is None
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is int or (kind is float and isinstance(value, int)):
        return isinstance(value, int) and abs(value) <= MAX_INT
    if kind is float:
        return isinstance(value, float) and math.isfinite(value)
    return kind is str and isinstance(value, str) and is_text(value)


def is_text(value: str) -> bool:
    """Return whether a string can be encoded: JSON allows lone surrogates, UTF-8 does not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _join(place: str, name: Any) -> str:
    """Return the path of a field, with a printable name of at most ``LONGEST_SHOWN`` characters."""
    name = str(name).encode("ascii", "backslashreplace").decode() if not is_text(str(name)) else str(name)
    name = name if name.isprintable() else repr(name)
    return f"{place}.{name[:LONGEST_SHOWN]}"


def _describe(kind: Any) -> str:
    """Describe an annotation in words."""
    names = {str: "valid text", bool: "true or false", int: "a 64-bit integer", float: "a finite number"}
    if kind in names:
        return names[kind]
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, StrEnum)):
        return "one of " + ", ".join(map(str, of or list(kind)))
    if is_dataclass(kind) or is_typeddict(kind) or origin is dict:
        return "an object"
    return "a list" if origin in (tuple, list) else "null" if kind is type(None) else str(kind)
