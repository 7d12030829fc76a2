"""Mutations of valid inputs, and the limits that every reader keeps on them.

A reader of files from outside either succeeds or raises ``DetexportError``, whatever the bytes, and needs
neither much time nor much memory for it. ``DETEXPORT_FUZZ_EXAMPLES`` sets how many inputs a test tries; the
default is small and always the same.
"""

import copy
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from detexport.errors import DetexportError

EXAMPLES = int(os.environ.get("DETEXPORT_FUZZ_EXAMPLES", "0"))
LIMIT_S = 10.0
LIMIT_MB = 512

fuzzed = settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""The settings of a fuzz test."""


@contextmanager
def only_our_errors(limit_s: float = LIMIT_S, limit_mb: float = LIMIT_MB) -> Iterator[None]:
    """Let ``DetexportError`` pass, and fail if the block takes too long or too much memory."""
    start, before = time.perf_counter(), _peak_mb()
    try:
        yield
    except DetexportError as error:
        message = str(error)
        assert message, "an error says what is wrong"
        assert len(message) < 2000, f"a message of {len(message)} letters"
    assert time.perf_counter() - start < limit_s
    assert _peak_mb() - before < limit_mb


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


HOSTILE_VALUES = (
    *(None, True, False, 0, 1, -1, 2, 255, 65_536, 2**31, 2**63, 10**30, -(10**30)),
    *(0.5, 1.0, -0.0, 1e-300, 1e30, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "1", "x" * 10_000, "a\0b", "\ud800", "../../etc/passwd", "/dev/zero", "é\n\u202e"),
    *([], [[]], [[[[]]]], {}, {"": None}, [0] * 300, ["a", 1, None], {"size": [1, 1], "counts": "0"}),
)


def hostile_values() -> st.SearchStrategy[Any]:
    """Values that belong nowhere, and some that do."""
    return st.one_of(
        st.sampled_from(HOSTILE_VALUES),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.lists(st.one_of(st.floats(), st.integers(-300, 300), st.text(max_size=3)), max_size=12),
    )


@st.composite
def mutated_trees(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with some of its parts replaced, removed, repeated or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(value))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(("replace", "replace", "remove", "repeat", "exchange", "nudge")))
        if action == "remove":
            del parent[key]
        elif action == "repeat" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif action == "exchange":
            other, other_key = draw(st.sampled_from(places))
            parent[key] = copy.deepcopy(other[other_key])
        elif action == "nudge" and type(parent[key]) in (int, float):
            parent[key] += draw(st.sampled_from((-1, 1, 0.5, 1e6, -1e6)))
        else:
            parent[key] = copy.deepcopy(draw(hostile_values()))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a JSON value: what it is in, and under which key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items):
        yield value, key
        yield from _places(part)


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with some cut out, overwritten, repeated or inserted, often in the header."""
    mutated = bytearray(data)
    for _ in range(draw(st.integers(1, 5))):
        near = draw(st.booleans())
        start = draw(st.integers(0, min(len(mutated), 64) if near else len(mutated)))
        length = draw(st.sampled_from((1, 1, 2, 4, 8, 64)))
        action = draw(st.sampled_from(("flip", "write", "write", "cut", "insert", "repeat", "end")))
        if action == "flip" and start < len(mutated):
            mutated[start] ^= 1 << draw(st.integers(0, 7))
        elif action == "write":
            mutated[start : start + length] = draw(_words(length))
        elif action == "cut":
            del mutated[start : start + length]
        elif action == "insert":
            mutated[start:start] = draw(_words(length))
        elif action == "repeat":
            mutated[start:start] = mutated[start : start + length] * draw(st.integers(1, 20))
        elif action == "end":
            del mutated[start:]
    return bytes(mutated)


def _words(length: int) -> st.SearchStrategy[bytes]:
    fixed = [bytes(length), b"\xff" * length, b"\x7f" + b"\xff" * (length - 1), b"\x80" + bytes(length - 1)]
    return st.one_of(st.sampled_from(fixed), st.binary(min_size=length, max_size=length))
