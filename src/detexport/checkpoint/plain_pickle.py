"""An unpickler that knows arrays and plain containers only.

A pickle is a program. This one may call nothing but what rebuilds numpy arrays and containers; whatever
else a file names is refused before it is looked up.
"""

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from detexport.errors import CheckpointError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of protocol 2 spell bytes; any other encoding is not an array's."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"_codecs.encode with the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", name): getattr(multiarray, name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def load_plain_pickle(path: Path) -> Any:
    """The content of a pickle of arrays and plain containers.

    Raises:
        CheckpointError: the file is broken, or asks for anything else; nothing of it was run.
    """
    try:
        with path.open("rb") as file:
            # Zoo files were written by Python 2, whose strings are bytes.
            return _PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise CheckpointError(
            f"cannot read the pickle {path}",
            got=f"{type(error).__name__}: {error}",
            expected="numpy arrays, numbers, strings, lists, tuples and dicts alone",
            remedy="download the file again, or convert it to safetensors where you trust it",
        ) from error
