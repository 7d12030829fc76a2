"""JSON of any kind becomes our types, or an error of one line that names the field."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pytest

from detexport.system.json_values import MAX_INT, decode, parse_json


@dataclass(frozen=True)
class Inner:
    sides: tuple[int, int]
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None
    weights: tuple[float, ...] = ()
    options: dict[str, Any] | None = None


class Entries(TypedDict):
    passed: bool


def test_a_value_becomes_the_annotated_type() -> None:
    value = {"name": "é", "inner": {"sides": [1, 2]}, "weights": [1, 0.5], "options": {"deep": [{"x": None}]}}
    assert decode(value, Outer, "file") == Outer("é", Inner((1, 2)), (1, 0.5), {"deep": [{"x": None}]})
    assert decode({"name": "", "inner": None}, Outer, "file") == Outer("", None)


def test_an_integer_stays_one_where_a_number_is_expected() -> None:
    (weight,) = decode({"name": "", "inner": None, "weights": [1]}, Outer, "file").weights
    assert isinstance(weight, int), "or the digest of what is read would be another"


def test_a_typed_dict_has_its_entries_among_others() -> None:
    assert decode({"passed": True, "more": [1]}, Entries, "file") == {"passed": True, "more": [1]}
    with pytest.raises(ValueError, match=r"file\.passed: 1, expected true or false"):
        decode({"passed": 1}, Entries, "file")
    with pytest.raises(ValueError, match=r"file\.passed: missing"):
        decode({}, Entries, "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, r"file\.more: unknown field"),
        ({"name": 1}, r"file\.name: 1, expected valid text"),
        ({"name": "\ud800"}, r"file\.name: "),
        ({"inner": []}, r"file\.inner: \[\], expected an object"),
        ({"inner": {}}, r"file\.inner\.sides: missing"),
        ({"inner": {"sides": [1]}}, r"file\.inner\.sides: 1 items, expected 2"),
        ({"inner": {"sides": [1, True]}}, r"file\.inner\.sides\[1\]: True, expected a 64-bit integer"),
        ({"inner": {"sides": [1, MAX_INT + 1]}}, r"file\.inner\.sides\[1\]: "),
        ({"inner": {"sides": [1, 2], "kind": "c"}}, r"file\.inner\.kind: 'c', expected one of a, b"),
        ({"inner": {"sides": [1, 2], "kind": []}}, r"file\.inner\.kind: \[\], expected one of a, b"),
        ({"weights": [float("nan")]}, r"file\.weights\[0\]: nan, expected a finite number"),
        ({"weights": [10**400]}, r"file\.weights\[0\]: "),
        ({"options": {"x": float("inf")}}, r"file\.options\.x: inf"),
        ({"options": [[[]]]}, r"file\.options: "),
        ({"n" * 10_000: 1}, r"file\.n{80}: unknown field"),
        ({"a\nb": 1}, r"file\.'a\\nb': unknown field"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_in_one_short_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        decode({"name": "x", "inner": None, **change}, Outer, "file")
    assert len(str(raised.value)) <= 250
    assert len(str(raised.value).splitlines()) == 1


def test_a_free_value_is_not_nested_without_end() -> None:
    value: Any = 1
    for _ in range(30):
        value = [value]
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        decode({"name": "x", "inner": None, "options": {"deep": value}}, Outer, "file")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 5_000 + b"]" * 5_000, b"1" * 5_000, b'{"a": 1}]'], ids=repr
)
def test_what_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(data)
