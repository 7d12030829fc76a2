"""An unpickler for arrays of numbers and plain containers only.

A pickle is a program. This unpickler imports none of the names in it: the stand-ins below serve the few names
that pickled arrays need, and all others are refused. Numpy's own classes are unsafe: they read the flags of a
dtype from the file, and with wrong flags numbers are taken for addresses.

Time and memory are proportional to the size of the file: keys are plain, since hashing a nested tuple can
take long; copied values are counted; and the number of instructions is limited.
"""

import collections
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from detexport.errors import CheckpointError, shown

NUMBERS = "biufc"
"""Kinds of dtype that are accepted: numbers, no objects, structures or strings."""
MOST_INSTRUCTIONS = 3_000_000
"""Limit, since each takes memory; a thousand tensors and their optimizer take some hundred thousand."""
MOST_DIMENSIONS = 64
LONGEST_WORD = 64
"""Maximum length of the name of a dtype or a device."""
Names = Mapping[tuple[str, str], Any]


class Section:
    """A section of a file, read from its start; a read is limited to the section, and so is its memory."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file = file
        self.end = start + size
        file.seek(start)

    def left(self) -> int:
        """Return the number of unread bytes."""
        return max(0, self.end - self.file.tell())

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes, or all that are left."""
        return self.file.read(min(count, self.left()))

    def readline(self) -> bytes:
        """Return the next line, or all that is left."""
        return self.file.readline(self.left())


class StandIn:
    """A description of an array or a tensor in a pickle, which is checked when it is resolved."""

    def build(self, state: Any) -> None:
        """Set the state of the object, as the instruction BUILD does."""
        raise pickle.UnpicklingError(f"it sets the state of a {type(self).__name__.strip('_').lower()}")

    def resolve(self, name: str) -> Any:
        """Return the array or tensor; ``name`` is its key, for errors."""
        raise NotImplementedError


class _Dtype(StandIn):
    """Stand-in for ``numpy.dtype``."""

    def __init__(self, name: str, *_copy: object) -> None:
        self.dtype = np.dtype(word(name))
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype}, which is no number")

    def build(self, state: Any) -> None:
        # (version, byte order, ...): the rest describes structures and flags, which are ignored.
        order: Any = word(state[1])
        self.dtype = self.dtype.newbyteorder(order)


class _Array(StandIn):
    """Stand-in for ``numpy.ndarray``.

    Args:
        unpickler: counts copied bytes.
    """

    array: np.ndarray

    def __init__(self, unpickler: "PlainUnpickler") -> None:
        self.unpickler = unpickler

    def build(self, state: Any) -> None:
        _version, shape, dtype, columns_first, data = state
        self.fill(data, dtype, shape, "F" if columns_first else "C")

    def fill(self, data: Any, dtype: _Dtype, shape: Any, order: str) -> "_Array":
        """Set the elements from bytes in row-major (``C``) or column-major (``F``) order."""
        values = np.frombuffer(self.unpickler.raw(data), dtype.dtype)
        self.array = values.reshape(lengths(shape), order="F" if order == "F" else "C")
        return self

    def resolve(self, name: str) -> np.ndarray:
        if not hasattr(self, "array"):
            raise pickle.UnpicklingError(f"{shown(name)} is an array without content")
        return self.array


class PlainUnpickler(pickle._Unpickler):
    """Unpickler of plain containers, numbers, strings and the stand-ins in ``names``.

    Args:
        file: read from its current position.
        names: stand-ins by module and name.
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
        """Return the stand-in of a name; no module is imported."""
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Raise UnpicklingError: objects outside the file are not supported."""
        raise pickle.UnpicklingError("it refers to objects outside the file")

    def copied(self, content: Any, kinds: Any) -> Any:
        """Return ``content`` after counting it as copied, since a file can request any number of copies.

        Raises:
            pickle.UnpicklingError: it has another type, or more bytes are copied than the file allows.
        """
        if not isinstance(content, kinds):
            raise pickle.UnpicklingError(f"it converts a {type(content).__name__}, which is not supported")
        self.bytes_left -= len(content)
        if self.bytes_left < 0:
            raise pickle.UnpicklingError("it copies more than the file is long")
        return content

    def raw(self, data: Any) -> bytes | bytearray:
        """Return the bytes of numbers, also from Python 2's strings."""
        if isinstance(data, str):
            return bytes(self.copied(data, str).encode("latin1"))
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError(f"it takes numbers from a {type(data).__name__}")
        return data

    def _encode(self, text: Any, *encoding: str) -> bytes | bytearray:
        """Return the bytes that pickles of protocol 2 store as latin-1; arrays use no other encoding."""
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
    """Supported instructions by their bytes; each look-up counts as an execution.

    Args:
        left: maximum number of executions.
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
    """Return ``key`` if it is a string, a number or a flat tuple of them, which are fast to hash.

    Raises:
        pickle.UnpicklingError: it is another value.
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
        raise pickle.UnpicklingError(f"a key is a {type(key).__name__}, not a string or a number")
    return key


def word(text: Any) -> str:
    """Return ``text`` if it is a short string.

    Raises:
        pickle.UnpicklingError: it is another value.
    """
    if not isinstance(text, str) or len(text) > LONGEST_WORD:
        raise pickle.UnpicklingError(f"got {shown(text)}, expected a short string")
    return text


def is_count(value: Any) -> bool:
    """Return whether ``value`` is a non-negative integer of less than 64 bits."""
    return type(value) is int and value >= 0 and value.bit_length() < 64


def lengths(shape: Any) -> tuple[int, ...]:
    """Return ``shape`` if it is a short tuple of non-negative integers.

    Raises:
        pickle.UnpicklingError: it is another value.
    """
    if (
        not isinstance(shape, tuple)
        or len(shape) > MOST_DIMENSIONS
        or any(not is_count(length) for length in shape)
    ):
        raise pickle.UnpicklingError(f"{shown(shape)} is no shape")
    return shape


def complex_of(*parts: Any) -> complex:
    """Return the complex number of a real and an imaginary part."""
    if any(type(part) not in (int, float) for part in parts):
        raise pickle.UnpicklingError("a complex number has parts that are no numbers")
    return complex(*parts)


def bytes_of() -> bytes:
    """Return no bytes, as pickles of protocol 2 store an array without elements."""
    return b""


# Instructions that hash, call, or set attributes, with checks, since a file may pass any values.


def _call(unpickler: Any) -> None:
    arguments, function = unpickler.stack.pop(), unpickler.stack.pop()
    unpickler.append(function(*arguments))


def _build(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    made = unpickler.stack[-1]
    if isinstance(made, StandIn):
        made.build(state)
    elif not isinstance(made, collections.OrderedDict):  # its attributes hold versions, no weights
        raise pickle.UnpicklingError(f"it sets attributes of a {type(made).__name__}")


def _set_item(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    _mapping(unpickler.stack[-1])[plain_key(key)] = value


def _set_items(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    _mapping(unpickler.stack[-1]).update(_pairs(items))


def _dict(unpickler: Any) -> None:
    items = unpickler.pop_mark()  # before the look-up of append, since pop_mark replaces it
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


# Registered extensions, out-of-band buffers, and calls with keywords do not occur in plain data.
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
    """Replace the stand-ins in ``value`` by arrays and tensors; shared objects stay shared.

    Args:
        value: content of a pickle.
        name: its key, for errors.
        done: resolved values, by identity.
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
    """Load a pickle of arrays and plain containers; no code in it is executed.

    Raises:
        CheckpointError: the file is broken, or has other content.
    """
    try:
        with path.open("rb") as file:
            return resolve(PlainUnpickler(Section(file, 0, path.stat().st_size)).load())
    except Exception as error:  # a broken pickle can raise nearly any error
        raise CheckpointError(
            f"cannot read the pickle {path}",
            got=f"{type(error).__name__}: {error}",
            expected="only arrays of numbers, numbers, strings, lists, tuples and dicts",
            remedy="download the file again, or convert it to safetensors on a machine where you trust it",
        ) from error
