"""Fuzzed checkpoints and random pickles are read, or refused by a one-line error."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from detexport.checkpoint import read_checkpoint
from detexport.errors import CheckpointError
from fuzzing import FEW, MANY, check, fuzzed

TENSORS = {
    "conv.weight": torch.arange(24.0).reshape(2, 3, 4),
    "conv.bias": torch.zeros(3),
    "n": torch.tensor(7),
}

NAMES = """
collections OrderedDict, collections Counter, _codecs encode, __builtin__ set, builtins complex,
builtins bytes, numpy dtype, numpy ndarray, numpy.core.multiarray _reconstruct,
numpy.core.multiarray scalar, numpy.core.numeric _frombuffer, torch FloatStorage, torch LongStorage,
torch.storage UntypedStorage, torch Size, torch device, torch float16, torch Tensor,
torch._utils _rebuild_tensor_v2, torch._utils _rebuild_tensor_v3, torch._utils _rebuild_parameter,
torch._utils _rebuild_sparse_tensor, torch._utils _rebuild_qtensor, torch._tensor _rebuild_from_type_v2,
os system, builtins eval
"""
TEXTS = ("w", "storage", "0", "cpu", "latin1", "f4", "O8", "<", "model", "")
OPCODES = b"}])(tuesabR0N\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94Q2d1lo.\x81\x92\x82\x97\x98"
PARTS = st.sampled_from(
    [
        *(bytes([code]) for code in OPCODES),
        *(b"q" + bytes([place]) for place in range(3)),
        *(b"h" + bytes([place]) for place in range(3)),
        b"r\xff\xff\xff\x7f",
        b"p5\n",
        b"g5\n",
        *(b"K" + bytes([number]) for number in (0, 1, 3)),
        b"J\xff\xff\xff\xff",
        b"M\xff\xff",
        b"\x8a\x09" + b"\xff" * 8 + b"\x00",
        b"I99999999999\n",
        b"L1L\n",
        b"F1e400\n",
        b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
        *(b"X" + struct.pack("<I", len(text)) + text.encode() for text in TEXTS),
        *(b"U" + bytes([len(text)]) + text.encode() for text in TEXTS),
        # Wrong lengths.
        b"X\xff\xff\xff\x7fa",
        b"T\xff\xff\xff\x7fa",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x96\x00\x00\x00\x00\x00\x01\x00\x00",
        b"\x95\xff\xff\xff\xff\xff\xff\x00\x00",
        b"C\x04aaaa",
        b"V\\u0041\n",
        b"S'a'\n",
        *(b"c" + name.strip().replace(" ", "\n").encode() + b"\n" for name in NAMES.split(",")),
    ]
)
EXAMPLES = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]


def files() -> dict[str, bytes]:
    """Write a checkpoint of each format."""
    found = {"safetensors": save(TENSORS)}
    for name, is_zip in (("zip", True), ("legacy", False)):
        file = io.BytesIO()
        torch.save({"model": TENSORS, "iteration": 3}, file, _use_new_zipfile_serialization=is_zip)
        found[name] = file.getvalue()
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    for protocol in (0, 2, 4):
        found[f"pkl{protocol}"] = pickle.dumps({"model": arrays, "best": np.float64(1)}, protocol)
    return found


FILES = files()


def read(content: bytes, folder: Path) -> bool:
    path = folder / "checkpoint"
    path.write_bytes(content)
    return check(lambda: read_checkpoint(path), CheckpointError)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Set, cut, repeat or insert some bytes of ``content``."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(["set", "cut", "end", "repeat", "insert"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del data[at : at + length]
            case "end":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + length]
            case _:
                data[at:at] = draw(st.binary(max_size=8) | PARTS)
    return bytes(data)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("kind", FILES)
def test_damaged_bytes(kind: str, examples: int, tmp_path: Path) -> None:
    assert read(FILES[kind], tmp_path)
    refused = []

    @fuzzed(examples)
    @given(damaged(FILES[kind]))
    def property_of(content: bytes) -> None:
        refused.append(not read(content, tmp_path))

    property_of()
    assert any(refused)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("kind", ["pkl", "zip", "legacy"])
def test_random_pickles(kind: str, examples: int, tmp_path: Path) -> None:
    """Instructions and names in any order, as a pickle and as the content of a torch.save file."""

    @fuzzed(examples)
    @given(st.lists(PARTS, max_size=60))
    def property_of(parts: list[bytes]) -> None:
        program = b"\x80\x02" + b"".join(parts) + b"."
        if kind == "zip":
            program = archive({"a/data.pkl": program, "a/data/0": b"\0" * 12, "a/version": b"3\n"})
        elif kind == "legacy":
            content = FILES["legacy"]
            start = content.index(b"\x80\x02", content.index(b"little_endian"))
            program = content[:start] + program + content[start:]
        read(program, tmp_path)

    property_of()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_pickles_with_one_changed_instruction(examples: int, tmp_path: Path) -> None:
    """The content of a torch.save file with one changed instruction."""
    with zipfile.ZipFile(io.BytesIO(FILES["zip"])) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))

    @fuzzed(examples)
    @given(damaged(members[name]))
    def property_of(program: bytes) -> None:
        read(archive({**members, name: program}), tmp_path)

    property_of()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("examples", EXAMPLES)
def test_archives_of_random_members(examples: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(FILES["zip"])) as opened:
        members = [(name, opened.read(name)) for name in opened.namelist()]
    kinds = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])

    @fuzzed(examples)
    @given(st.lists(st.tuples(st.sampled_from(members), kinds, st.booleans()), max_size=12))
    def property_of(chosen: list[tuple[tuple[str, bytes], int, bool]]) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as packed:
            for (name, data), kind, renamed in chosen:
                packed.writestr(f"{name}x" if renamed else name, data, kind)
        read(file.getvalue(), tmp_path)

    property_of()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats() | st.text(max_size=8) | st.just("F32"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_headers_of_safetensors(examples: int, tmp_path: Path) -> None:
    length = struct.unpack("<Q", FILES["safetensors"][:8])[0]
    header = json.loads(FILES["safetensors"][8 : 8 + length])
    keys = st.sampled_from(["dtype", "shape", "data_offsets", "more"])

    @fuzzed(examples)
    @given(st.sampled_from(sorted(header)), keys, VALUES, st.booleans(), st.integers(-8, 8))
    def property_of(name: str, key: str, value: Any, whole: bool, more: int) -> None:
        changed = {**header, name: value if whole else {**header[name], key: value}}
        text = json.dumps(changed).encode()
        read(
            struct.pack("<Q", max(0, len(text) + more)) + text + FILES["safetensors"][8 + length :], tmp_path
        )

    property_of()


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return file.getvalue()
