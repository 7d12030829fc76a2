"""An unpickler that knows arrays of numbers and plain containers only.

A pickle is a program. Nothing that this one names is looked up: the few names that pickled arrays need are
answered by the stand-ins below, and everything else is refused. Numpy's own classes would not do: they take
a dtype's flags from the file, and with the wrong ones its bytes become addresses.

Time and memory follow the size of the file: keys are plain, since to hash a nested tuple can take long;
what a call copies is counted; and the number of instructions is limited.
"""

import collections
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from detexport.errors import CheckpointError, shown

NUMBERS = "biufc"
"""Kinds of dtype that may be read: no objects, no structures, no text."""
MOST_INSTRUCTIONS = 3_000_000
"""A checkpoint of a thousand tensors and its optimizer take some hundred thousand; each takes memory."""
MOST_DIMENSIONS = 64
LONGEST_WORD = 64
"""Characters of the name of a dtype or a device."""
Names = Mapping[tuple[str, str], Any]


class Section:
    """A part of a file, read from its beginning; no read goes beyond its end, or asks for more memory."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file = file
        self.end = start + size
        file.seek(start)

    def left(self) -> int:
        """Bytes that were not read yet."""
        return max(0, self.end - self.file.tell())

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, or those that are left."""
        return self.file.read(min(count, self.left()))

    def readline(self) -> bytes:
        """The next line, or what is left of it."""
        return self.file.readline(self.left())


class StandIn:
    """What a pickle builds instead of an array or a tensor: a description that is checked when it is used."""

    def build(self, state: Any) -> None:
        """Take the state that the pickle gives to an object after it is made."""
        raise pickle.UnpicklingError(f"it gives a state to a {type(self).__name__.strip('_').lower()}")

    def resolve(self, name: str) -> Any:
        """What it stands for; ``name`` is the key that it is found under."""
        raise NotImplementedError


class _Dtype(StandIn):
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: str, *_copy: object) -> None:
        self.dtype = np.dtype(word(name))
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype}, which is no number")

    def build(self, state: Any) -> None:
        # (version, byte order, ...): the rest describes structures, and flags that nobody may set.
        order: Any = word(state[1])
        self.dtype = self.dtype.newbyteorder(order)


class _Array(StandIn):
    """Stands in for ``numpy.ndarray``.

    Args:
        unpickler: counts what is copied.
    """

    array: np.ndarray

    def __init__(self, unpickler: "PlainUnpickler") -> None:
        self.unpickler = unpickler

    def build(self, state: Any) -> None:
        _version, shape, dtype, columns_first, data = state
        self.fill(data, dtype, shape, "F" if columns_first else "C")

    def fill(self, data: Any, dtype: _Dtype, shape: Any, order: str) -> "_Array":
        """Take the bytes of all elements, in rows (``C``) or in columns (``F``)."""
        values = np.frombuffer(self.unpickler.raw(data), dtype.dtype)
        self.array = values.reshape(lengths(shape), order="F" if order == "F" else "C")
        return self

    def resolve(self, name: str) -> np.ndarray:
        if not hasattr(self, "array"):
            raise pickle.UnpicklingError(f"{shown(name)} is an array without content")
        return self.array


class PlainUnpickler(pickle._Unpickler):
    """Unpickles plain containers, numbers, texts and the stand-ins of ``names``.

    Args:
        file: read from where it stands.
        names: what answers a name, by its module and itself.
    """

    def __init__(self, file: Section, names: Names = {}) -> None:  # noqa: B006 - it is only read
        # Zoo files were written by Python 2, whose strings are bytes.
        super().__init__(file, encoding="latin1")
        self.dispatch = _Instructions(MOST_INSTRUCTIONS)  # type: ignore[misc, assignment]
        self.bytes_left = 2 * file.left()
        self.names: Names = {**self._stand_ins(), **names}

    def _stand_ins(self) -> Names:
        return {
            ("collections", "OrderedDict"): self._ordered_dict,
            ("_codecs", "encode"): self._encode,
            **{
                (builtins, name): stand_in
                for builtins in ("builtins", "__builtin__")
                for name, stand_in in (("bytes", bytes_of), ("set", self._set), ("complex", complex_of))
            },
            ("numpy", "ndarray"): "numpy.ndarray",
            ("numpy", "dtype"): _Dtype,
            **{
                (f"numpy.{core}.{module}", name): stand_in
                for core in ("core", "_core")
                for module, name, stand_in in (
                    ("multiarray", "_reconstruct", self._reconstruct),
                    ("multiarray", "scalar", self._scalar),
                    ("numeric", "_frombuffer", self._frombuffer),
                )
            },
        }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name; nothing is imported."""
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what lies outside the file."""
        raise pickle.UnpicklingError("it refers to objects outside the file")

    def copied(self, content: Any, kinds: Any) -> Any:
        """``content``, which a call is about to copy: a file may ask for it again and again.

        Raises:
            pickle.UnpicklingError: it is of another kind, or more is copied than the file is long.
        """
        if not isinstance(content, kinds):
            raise pickle.UnpicklingError(f"it makes something else of a {type(content).__name__}")
        self.bytes_left -= len(content)
        if self.bytes_left < 0:
            raise pickle.UnpicklingError("it copies more than the file is long")
        return content

    def raw(self, data: Any) -> bytes | bytearray:
        """The bytes of numbers; Python 2's strings are bytes."""
        if isinstance(data, str):
            return bytes(self.copied(data, str).encode("latin1"))
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError(f"it takes numbers from a {type(data).__name__}")
        return data

    def _encode(self, text: Any, *encoding: str) -> bytes | bytearray:
        """How pickles of protocol 2 spell bytes; any other encoding is not an array's."""
        if encoding not in (("latin1",), ("latin-1",)) or not isinstance(text, str):
            raise pickle.UnpicklingError(f"_codecs.encode with the encoding {shown(encoding)}")
        return self.raw(text)

    def _ordered_dict(self, pairs: Any = ()) -> Any:
        entries = [self.copied(pair, (list, tuple)) for pair in self.copied(pairs, (list, tuple))]
        return collections.OrderedDict((plain_key(key), value) for key, value in entries)

    def _set(self, entries: Any = ()) -> set[Any]:
        return {plain_key(entry) for entry in self.copied(entries, (list, tuple))}

    def _scalar(self, dtype: _Dtype, data: Any) -> np.generic:
        value: np.generic
        (value,) = np.frombuffer(self.raw(data), dtype.dtype)
        return value

    def _reconstruct(self, *_empty: object) -> _Array:
        return _Array(self)

    def _frombuffer(self, data: Any, dtype: _Dtype, shape: Any, order: str, *_axes: object) -> _Array:
        return _Array(self).fill(data, dtype, shape, order)


class _Instructions(dict[int, Callable[[PlainUnpickler], None]]):
    """The instructions that make plain data, by their bytes; each look-up is one that is carried out.

    Args:
        left: how many may be carried out.
    """

    def __init__(self, left: int) -> None:
        super().__init__(INSTRUCTIONS)
        self.left = left

    def __getitem__(self, code: int) -> Callable[[PlainUnpickler], None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"it has more than {MOST_INSTRUCTIONS} instructions")
        if code not in self:
            raise pickle.UnpicklingError(f"unsupported instruction {bytes([code])!r}")
        return super().__getitem__(code)


def plain_key(key: Any) -> Any:
    """``key``, a text or a number: others may take for ever to hash.

    Raises:
        pickle.UnpicklingError: it is something else.
    """
    if (
        isinstance(key, tuple)
        and len(key) <= MOST_DIMENSIONS
        and not any(isinstance(one, tuple) for one in key)
    ):
        return tuple(map(plain_key, key))
    if not isinstance(key, str | bytes | float | int | None) or (
        isinstance(key, int) and key.bit_length() > 64
    ):
        raise pickle.UnpicklingError(f"a key is a {type(key).__name__}, and not a text or a number")
    return key


def word(text: Any) -> str:
    """``text``, if it is a short one.

    Raises:
        pickle.UnpicklingError: it is something else.
    """
    if not isinstance(text, str) or len(text) > LONGEST_WORD:
        raise pickle.UnpicklingError(f"{shown(text)} stands where a short text belongs")
    return text


def is_count(value: Any) -> bool:
    """Whether ``value`` is an integer from 0 on that a file's size can be compared with at no cost."""
    return type(value) is int and value >= 0 and value.bit_length() < 64


def lengths(shape: Any) -> tuple[int, ...]:
    """``shape``, if it is a tuple of a few integers that are not negative.

    Raises:
        pickle.UnpicklingError: it is something else.
    """
    if (
        not isinstance(shape, tuple)
        or len(shape) > MOST_DIMENSIONS
        or any(not is_count(length) for length in shape)
    ):
        raise pickle.UnpicklingError(f"{shown(shape)} is no shape")
    return shape


def complex_of(*parts: Any) -> complex:
    """A complex number of two others."""
    if any(type(part) not in (int, float) for part in parts):
        raise pickle.UnpicklingError("a complex number has parts that are no numbers")
    return complex(*parts)


def bytes_of() -> bytes:
    """How pickles of protocol 2 spell the bytes of an array without elements."""
    return b""


# What the instructions do that hash, call, or set attributes; a file may give them anything.


def _call(unpickler: Any) -> None:
    arguments, function = unpickler.stack.pop(), unpickler.stack.pop()
    unpickler.append(function(*arguments))


def _build(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    made = unpickler.stack[-1]
    if isinstance(made, StandIn):
        made.build(state)
    elif not isinstance(made, collections.OrderedDict):  # whose attributes hold versions, no weights
        raise pickle.UnpicklingError(f"it sets attributes of a {type(made).__name__}")


def _set_item(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    _mapping(unpickler.stack[-1])[plain_key(key)] = value


def _set_items(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    _mapping(unpickler.stack[-1]).update(_pairs(items))


def _dict(unpickler: Any) -> None:
    items = unpickler.pop_mark()  # before the look-up of append, which it changes
    unpickler.append(dict(_pairs(items)))


def _add_items(unpickler: Any) -> None:
    entries = unpickler.pop_mark()
    if not isinstance(unpickler.stack[-1], set):
        raise pickle.UnpicklingError(f"it adds entries to a {type(unpickler.stack[-1]).__name__}")
    unpickler.stack[-1].update(map(plain_key, entries))


def _frozen_set(unpickler: Any) -> None:
    entries = unpickler.pop_mark()
    unpickler.append(frozenset(map(plain_key, entries)))


def _append(unpickler: Any) -> None:
    value = unpickler.stack.pop()
    _list(unpickler.stack[-1]).append(value)


def _append_items(unpickler: Any) -> None:
    values = unpickler.pop_mark()
    _list(unpickler.stack[-1]).extend(values)


def _bytearray(unpickler: Any) -> None:
    unpickler.append(bytearray(unpickler.read(int.from_bytes(unpickler.read(8), "little"))))


def _mapping(made: Any) -> Any:
    if not isinstance(made, dict):
        raise pickle.UnpicklingError(f"it sets items of a {type(made).__name__}")
    return made


def _list(made: Any) -> Any:
    if not isinstance(made, list):
        raise pickle.UnpicklingError(f"it appends to a {type(made).__name__}")
    return made


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(map(plain_key, items[::2]), items[1::2], strict=True)


# Registered extensions, objects outside the stream, and calls with keywords are no plain data.
_REFUSED = ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "INST", "OBJ", "NEWOBJ_EX")
_OURS = {
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "DICT": _dict,
    "ADDITEMS": _add_items,
    "FROZENSET": _frozen_set,
    "APPEND": _append,
    "APPENDS": _append_items,
    "BYTEARRAY8": _bytearray,
}
INSTRUCTIONS: dict[int, Any] = {
    **{
        code: act
        for code, act in pickle._Unpickler.dispatch.items()
        if code not in {getattr(pickle, name)[0] for name in _REFUSED}
    },
    **{getattr(pickle, name)[0]: act for name, act in _OURS.items()},
}


def resolve(value: Any, name: str = "", done: dict[int, Any] | None = None) -> Any:
    """``value`` with arrays and tensors for their stand-ins; an object that several refer to stays one.

    Args:
        value: what a pickle holds.
        name: the key that it is found under.
        done: what was resolved before, by identity.
    """
    done = {} if done is None else done
    if id(value) not in done:
        if isinstance(value, StandIn):
            result: Any = value.resolve(name)
        elif isinstance(value, dict):
            entries = {
                key: resolve(entry, key if isinstance(key, str) else name, done)
                for key, entry in value.items()
            }
            result = entries if type(value) is dict else type(value)(entries)
        elif type(value) in (list, tuple):
            result = type(value)(resolve(entry, name, done) for entry in value)
        else:
            result = value
        done[id(value)] = result
    return done[id(value)]


def load_plain_pickle(path: Path) -> Any:
    """The content of a pickle of arrays and plain containers.

    Raises:
        CheckpointError: the file is broken, or asks for anything else; nothing of it was run.
    """
    try:
        with path.open("rb") as file:
            return resolve(PlainUnpickler(Section(file, 0, path.stat().st_size)).load())
    except Exception as error:  # a broken pickle raises nearly anything
        raise CheckpointError(
            f"cannot read the pickle {path}",
            got=f"{type(error).__name__}: {error}",
            expected="arrays of numbers, numbers, strings, lists, tuples and dicts alone",
            remedy="download the file again, or convert it to safetensors where you trust it",
        ) from error
