"""An unpickler that knows arrays of numbers and plain containers only.

A pickle is a program. Nothing that this one names is looked up: the few names that pickled arrays need are
answered by the stand-ins below, and everything else is refused. Numpy's own classes would not do: they take
a dtype's flags from the file, and with the wrong ones its bytes become addresses.
"""

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from detexport.errors import CheckpointError

NUMBERS = "biufc"
"""Kinds of dtype that may be read: no objects, no structures, no text."""


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: str, *_copy: object) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype}, which is no number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, ...): the rest describes structures, and flags that nobody may set.
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for ``numpy.ndarray``."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, columns_first, data = state
        self.array = _values(data, dtype).reshape(shape, order="F" if columns_first else "C")


# A pickle may change the defaults of a function that it has got hold of: these functions have none.


def _values(data: Any, dtype: _Dtype) -> np.ndarray:
    # Python 2's strings are bytes.
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)


def _reconstruct(*_empty: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: Any) -> np.generic:
    (value,) = _values(data, dtype)
    return value


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, *_axes: object) -> _Array:
    array = _Array()
    array.array = _values(data, dtype).reshape(shape, order="F" if order == "F" else "C")
    return array


def _encode(text: str, *encoding: str) -> bytes:
    """How pickles of protocol 2 spell bytes; any other encoding is not an array's."""
    if encoding not in (("latin1",), ("latin-1",)):
        raise pickle.UnpicklingError(f"_codecs.encode with the encoding {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How pickles of protocol 2 spell the bytes of an array without elements."""
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def _arrays(value: Any, done: dict[int, Any]) -> Any:
    """``value`` with arrays for their stand-ins; each object once, however often the file refers to it."""
    if id(value) not in done:
        if isinstance(value, _Array):
            result: Any = value.array
        elif isinstance(value, dict):
            result = {key: _arrays(entry, done) for key, entry in value.items()}
        elif isinstance(value, list | tuple):
            result = type(value)(_arrays(entry, done) for entry in value)
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
            # Zoo files were written by Python 2, whose strings are bytes.
            return _arrays(_PlainUnpickler(file, encoding="latin1").load(), {})
    except Exception as error:  # a broken pickle raises nearly anything
        raise CheckpointError(
            f"cannot read the pickle {path}",
            got=f"{type(error).__name__}: {error}",
            expected="arrays of numbers, numbers, strings, lists, tuples and dicts alone",
            remedy="download the file again, or convert it to safetensors where you trust it",
        ) from error
