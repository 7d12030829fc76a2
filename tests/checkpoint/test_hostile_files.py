"""Checkpoints that request the execution of code, or are broken, are refused without side effects."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detexport.checkpoint import read_state_dict
from detexport.checkpoint.plain_pickle import load_plain_pickle
from detexport.errors import CheckpointError

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


class Calls:
    """An object whose pickle calls ``function(*arguments)`` on loading."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def touch(marker: Path) -> Calls:
    return Calls(os.system, f"touch {marker}")


def evaluate(marker: Path) -> Calls:
    return Calls(eval, f"open({str(marker)!r}, 'w')")


def look_up(marker: Path) -> Calls:
    return Calls(getattr, evaluate(marker), "name")


def import_module(marker: Path) -> Calls:
    return Calls(__import__, "antigravity")


def write(marker: Path) -> Calls:
    return Calls(Path.write_text, marker, "x")


def open_for_writing(marker: Path) -> Calls:
    return Calls(open, str(marker), "w")


def array_of_objects(marker: Path) -> np.ndarray:
    return np.array([None, touch(marker)], dtype=object)


def nested(marker: Path) -> dict[str, Any]:
    return {"model": {"weight": np.zeros(2, np.float32), "deep": [({"x": touch(marker)},)]}}


# Names in the errors: torch omits the module of a builtin, and reads the array of nested first.
ATTACKS = {
    touch: "(posix|nt).system",
    evaluate: r"\beval\b",
    look_up: r"\bgetattr\b",
    import_module: r"\b__import__\b",
    write: r"\bgetattr\b|pathlib",
    open_for_writing: r"\bopen\b",
    array_of_objects: "object|(posix|nt).system|numpy",
    nested: "(posix|nt).system|numpy",
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_pkl_that_calls(attack: Callable[[Path], Any], protocol: int, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(attack(marker), protocol))
    with pytest.raises(CheckpointError, match=ATTACKS[attack]):
        read_state_dict(path)
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_pth_that_calls(attack: Callable[[Path], Any], legacy: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pth"
    content = {"model": {"weight": torch.zeros(2)}, "extra": attack(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=ATTACKS[attack]) as caught:
        read_state_dict(path)
    # torch's own message explains how to load the file anyway.
    assert "weights_only" not in str(caught.value)
    assert "safe_globals" not in str(caught.value)
    assert not marker.exists()


def test_the_attacks_work_in_pickle_itself(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(touch(marker)))  # harmless
    assert marker.exists()


@pytest.mark.parametrize(
    "dtype_state",
    [
        # Objects without their flag: numpy would follow the bytes as addresses.
        b"U\x02O8\x89\x88\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        # Numbers with the flag of objects: numpy would count references at the addresses.
        b"U\x02f8\x89\x88\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb",
        # A structure and a string of any size.
        b"U\x05f4,f4\x89\x88\x87R",
        b"U\x02S8\x89\x88\x87R(K\x03U\x01|NNNJ\xff\xff\xff\x7fK\x01K\x00tb",
    ],
    ids=["objects", "numbers", "structure", "text"],
)
def test_flags_of_a_dtype_are_not_read_from_a_file(dtype_state: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(
        b"\x80\x02" + RECONSTRUCT + b"(K\x01K\x01\x85cnumpy\ndtype\n" + dtype_state + b"\x89U\x08AAAAAAAAtb."
    )
    try:
        array = load_plain_pickle(path)
    except CheckpointError as error:
        assert "no number" in str(error)  # noqa: PT017 - the alternative is a plain array
    else:
        assert array.dtype == np.float64
        assert array.dtype.flags == np.dtype(np.float64).flags
        assert array.tobytes() == b"AAAAAAAA"


@pytest.mark.parametrize(
    "body",
    [
        b"cnumpy\nndarray\n(J\xff\xff\xff\x7f\x85U\x01btR",  # a huge empty array
        RECONSTRUCT
        + b"(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\nU\x02f4\x85RK\x00U\x04aaaatb",  # too few bytes
        RECONSTRUCT,  # no content at all
        b"c_codecs\nencode\n(U\x01aU\x03zip\x74R",
        b"cnumpy\nload\n(U\x01atR",
        b"cnumpy._core.multiarray\nfrombuffer\n(U\x01atR",
        b"U\x01aQ",  # an object outside the file
        b"\x82\x01",  # an extension
        b"\x97",  # a buffer outside the file
    ],
)
def test_pickles_that_misuse_supported_names(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02" + body + b".")
    with pytest.raises(CheckpointError, match="cannot read the pickle"):
        load_plain_pickle(path)


def test_a_file_cannot_change_the_reading_of_the_next(tmp_path: Path) -> None:
    """BUILD sets attributes, also of a function or a class that the file refers to."""
    good, bad = tmp_path / "good.pkl", tmp_path / "bad.pkl"
    good.write_bytes(pickle.dumps({"w": np.arange(3.0, dtype=np.float32)}, 2))
    for name in (b"c_codecs\nencode\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"):
        # A pair: attributes set in __dict__, and by setattr.
        bad.write_bytes(
            b"\x80\x02" + name + b"}U\x01xK\x01s}U\x0c__defaults__K\x05\x85sU\x05arrayK\x01s\x86b."
        )
        with pytest.raises(CheckpointError):
            read_state_dict(bad)
        assert read_state_dict(good)["w"].tolist() == [0, 1, 2]


def test_references_to_one_list_do_not_multiply(tmp_path: Path) -> None:
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(1), "x": value}))
    assert read_state_dict(tmp_path / "a.pkl")["w"].tolist() == [1]


def test_a_reference_cycle_is_refused(tmp_path: Path) -> None:
    value: list[Any] = []
    value.append(value)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(CheckpointError, match="RecursionError"):
        read_state_dict(tmp_path / "a.pkl")


@pytest.fixture(params=["a.pth", "legacy.pth", "a.pkl", "a.safetensors"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(3)}
    path = tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in tensors.items()}}, 2))
    else:
        torch.save({"model": tensors}, path, _use_new_zipfile_serialization="legacy" not in path.name)
    return path


def test_truncated_files(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    for length in [*range(0, len(content), max(1, len(content) // 40)), len(content) - 1]:
        checkpoint.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cannot read"):
            read_state_dict(checkpoint)


def test_damaged_files_are_read_or_refused(checkpoint: Path) -> None:
    """A changed weight may be undetectable; other changes raise CheckpointError."""
    content = checkpoint.read_bytes()
    refused = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = int(rng.integers(256))
        checkpoint.write_bytes(bytes(damaged))
        try:
            read_state_dict(checkpoint)
        except CheckpointError:
            refused += 1
    assert refused > 10


def test_safetensors_with_wrong_sizes(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        read_state_dict(path)
    path.write_bytes(struct.pack("<Q", 1 << 62))
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        read_state_dict(path)
