"""Pickles that would take time or memory out of proportion to their size."""

import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.checkpoint import plain_pickle, read_state_dict
from detexport.errors import LONGEST_MESSAGE, CheckpointError


def doubled(levels: int) -> tuple[Any, ...]:
    value: tuple[Any, ...] = (1,)
    for _ in range(levels):
        value = (value, value)
    return value


def nested_tuples(levels: int) -> bytes:
    """Return a nested tuple, which overflows the stack when hashed as a key."""
    return b"\x80\x02}K\x01" + b"\x85" * levels + b"K\x02s."


def repeated(call: bytes, times: int) -> bytes:
    """Return a list of results of one call with a string of a million characters."""
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"q\x00"
    return b"\x80\x02" + text + b"0](" + call * times + b"e."


HOSTILE = {
    "a key of 2 ** 60 parts": (
        b"\x80\x04}" + pickle.dumps(doubled(60), 4)[2:-1] + b"K\x01s.",
        "a key is a tuple",
    ),
    "a set of 2 ** 60 parts": (
        b"\x80\x04\x8f(" + pickle.dumps(doubled(60), 4)[2:-1] + b"\x90.",
        "a key is a tuple",
    ),
    "a deep key": (nested_tuples(200_000), "a key is a tuple"),
    "a huge integer as key": (
        b"\x80\x02}\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b"K\x01s.",
        "a key is a int",
    ),
    "deep lists": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "RecursionError"),
    "a far memo": (b"\x80\x02}r\xff\xff\xff\x7f.", "holds no tensor"),
    "copies": (repeated(b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R", 100_000), "copies more"),
    "a long text": (b"\x80\x02X\xff\xff\xff\x7fabc.", "EOFError"),
    "long bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.", "EOFError"),
    "long writable bytes": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.", "EOFError"),
    "a long frame": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"}.", "holds no tensor"),
    "a call of a list": (b"\x80\x02]K\x01\x85R.", "TypeError"),
    "items of a text": (b"\x80\x02X\x01\x00\x00\x00aK\x01K\x02s.", "sets items of a str"),
    "an odd number of items": (b"\x80\x02}(K\x01u.", "ValueError"),
    "an unknown instruction": (b"\x80\x02\xff.", "unsupported instruction"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_and_memory_follow_the_size_of_the_file(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    start = time.process_time()
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(path)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert time.process_time() - start < 20
    assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_instructions_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MOST_INSTRUCTIONS", 1000)
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02](" + b"}" * 5000 + b"e.")
    with pytest.raises(CheckpointError, match="more than 1000 instructions"):
        read_state_dict(tmp_path / "a.pkl")


def test_a_key_of_ten_million_characters_is_shortened(tmp_path: Path) -> None:
    content = {"w" * 10_000_000: np.ones(1, np.longdouble)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"'www.*www' of") as caught:
        read_state_dict(tmp_path / "a.pkl")
    assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_plain_keys_are_accepted(tmp_path: Path) -> None:
    content = {"w": np.ones(1), "x": {("a", 1): 2, None: 3, 1.5: 4, b"b": 5, True: 6}, "s": {1, ("a", 2)}}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
        assert plain_pickle.load_plain_pickle(tmp_path / "a.pkl") == content
