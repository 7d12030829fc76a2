"""Checkpoints of each format, as trainers and model zoos write them."""

import pickle
import stat
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detexport.checkpoint import read_checkpoint, read_state_dict, write_state_dict
from detexport.errors import CheckpointError

TENSORS = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "steps": torch.tensor(7)}


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        OrderedDict(TENSORS),
        {"model": TENSORS, "optimizer": {"lr": 0.1, "state": {0: torch.zeros(2)}}, "iteration": 100},
        {"model": {**TENSORS, "epoch": 3}},
    ],
    ids=["plain", "ordered", "under model", "with a number"],
)
def test_pth(content: dict, legacy: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert_same(read_state_dict(tmp_path / "a.pth"), TENSORS)


def test_strided_and_overlapping_views_become_separate_tensors(tmp_path: Path) -> None:
    storage = torch.arange(12.0)
    views = {
        "overlapping": storage.as_strided((3, 4), (1, 2)),
        "offset": storage[5:],
        "transposed": storage.reshape(3, 4).T,
        "tied": storage,
        "tied_too": storage,
    }
    torch.save({"model": views}, tmp_path / "a.pth")
    tensors = read_state_dict(tmp_path / "a.pth")
    assert_same(tensors, views)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    write_state_dict(tensors, tmp_path / "b.safetensors")
    assert_same(read_state_dict(tmp_path / "b.safetensors"), views)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_zoo_pickle(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns_first": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "half": np.ones(2, np.float16),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 4), np.int64),
        "scalar": np.float32(2.5),
        "point": np.array(3, np.int32),
    }
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    got = read_state_dict(tmp_path / "a.pkl")
    assert set(got) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name].numpy(), array)
        assert got[name].numpy().dtype == np.asarray(array).dtype.newbyteorder("=")


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Its strings are bytes, and the module of numpy has the older name."""
    written_by_python_2 = (
        b"\x80\x02}U\x05modelq\x01}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08\x00\x00\x80?\x00\x00\x80\xbftbss."
    )
    (tmp_path / "a.pkl").write_bytes(written_by_python_2)
    assert read_state_dict(tmp_path / "a.pkl")["w"].tolist() == [1, -1]


def test_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert_same(read_state_dict(tmp_path / "a.safetensors"), TENSORS)


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_state_dict(TENSORS, first)
    strided = {name: tensor.clone() for name, tensor in reversed(TENSORS.items())}
    strided["conv.weight"] = strided["conv.weight"].to(memory_format=torch.channels_last)
    write_state_dict(strided, second)
    assert first.read_bytes() == second.read_bytes()
    assert_same(read_state_dict(first), TENSORS)


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    write_state_dict(TENSORS, tmp_path / "a.safetensors")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.safetensors", "plain")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "no checkpoint"),
        ("page.pth", b"<!DOCTYPE html>", "begins with b'<!DOCTYPE html"),
        ("empty.pkl", b"", "an empty file"),
    ],
)
def test_missing_files_and_other_formats(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("suffix", ["", ".bin", ".pth", ".pkl", ".safetensors"])
def test_a_format_is_recognized_by_the_content(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    for legacy in (False, True):
        torch.save({"model": TENSORS}, path, _use_new_zipfile_serialization=not legacy)
        assert_same(read_state_dict(path), TENSORS)
    save_file(TENSORS, path)
    assert_same(read_state_dict(path), TENSORS)
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    for content in (arrays, {"model": arrays}, {"blobs": arrays, "cfg": "MODEL: {}"}, OrderedDict(arrays)):
        for protocol in (0, 1, 2, 4):
            path.write_bytes(pickle.dumps(content, protocol))
            assert_same(read_state_dict(path), TENSORS)


def test_other_entries_are_kept(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"model": TENSORS, "optimizer": optimizer, "iteration": 99}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert_same(checkpoint.model, TENSORS)
    assert checkpoint.extra.keys() == {"optimizer", "iteration"}
    assert checkpoint.extra["iteration"] == 99
    torch.save(TENSORS, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").extra == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict; got: list"),
        ({"state": {"w": 1}}, "holds no tensor; got: entries 'state'"),
        ({}, "holds no tensor"),
        ({"model": {3: torch.zeros(1)}}, "without a name; got: the key 3"),
    ],
    ids=["a list", "tensors elsewhere", "empty", "a number as name"],
)
def test_content_that_is_no_state_dict(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "a.pth")
