"""Mutations of valid inputs, and what every fuzz test checks.

What comes from outside is read, or refused by one line of a ``DetexportError``, whatever it holds, in bounded
time and memory. ``DETEXPORT_FUZZ_EXAMPLES`` sets how many inputs a test tries, other ones each time; by
default they are few and always the same.
"""

import copy
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from detexport.errors import LONGEST_MESSAGE, DetexportError

EXAMPLES = int(os.environ.get("DETEXPORT_FUZZ_EXAMPLES", "0"))
FEW, MANY = 40, 1000
LIMIT_S = 5.0
"""Of the processor, for one input of some kilobytes."""
SPARE_BYTES = 2 << 30
"""Address space that one input may take beyond what the process has."""
LIMIT_MB = 512
"""Of memory that one input may fill."""
ALLOCATION = ("MemoryError", "allocate")


def fuzzed(examples: int = 100) -> settings:
    """Settings of a fuzz test that tries so many inputs, unless the environment says how many."""
    return settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let an allocation fail that is out of proportion to any input."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def only_our_errors(
    *kinds: type[DetexportError], limit_mb: float = LIMIT_MB
) -> Iterator[list[DetexportError]]:
    """Let errors of these classes pass, by default all of ours, if they are one short line.

    The list that the block gets holds the error afterwards. Too much time or memory fails the test.
    """
    start, before = time.process_time(), _peak_mb()
    refused: list[DetexportError] = []
    with limited_memory():
        try:
            yield refused
        except DetexportError as error:
            if kinds and not isinstance(error, kinds):
                raise
            message = str(error)
            assert message
            assert len(message) <= LONGEST_MESSAGE
            assert message.isprintable()
            assert not any(words in message for words in ALLOCATION), message
            refused.append(error)
    taken = time.process_time() - start
    assert taken < LIMIT_S, f"{taken:.1f} s"
    assert _peak_mb() - before < limit_mb


def check(read: Callable[[], Any], *kinds: type[DetexportError], limit_mb: float = LIMIT_MB) -> bool:
    """Whether an input was read; see ``only_our_errors`` for one that was not."""
    with only_our_errors(*kinds, limit_mb=limit_mb) as refused:
        read()
    return not refused


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
