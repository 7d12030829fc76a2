"""Files of torch.save: dense tensors are read, others are refused by name."""

import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detexport.checkpoint import read_checkpoint, read_state_dict
from detexport.errors import CheckpointError

NAME = "roi_heads.box_predictor.cls_score.weight"


def saved(content: Any, path: Path, legacy: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these kinds are deprecated
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def rewritten(path: Path, change: Callable[[list[tuple[str, bytes]]], Any], compression: int = 0) -> Path:
    """Write an archive with changed members."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    change(members)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of members that have the same name
        for name, data in members:
            archive.writestr(name, data)
    return path


class Doubled(Tensor):
    pass


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), f"'{NAME}' is a sparse tensor"),
    "CSR": (lambda: torch.eye(3).to_sparse_csr(), f"'{NAME}' is a sparse tensor"),
    "quantized": (quantized, f"'{NAME}' is a quantized tensor"),
    "nested": (nested, f"'{NAME}' is a nested tensor"),
    "meta": (lambda: torch.zeros(3, device="meta"), f"'{NAME}' is a tensor on the meta device"),
    "expanded": (
        lambda: torch.zeros(1).expand(1 << 40),
        "expanded tensor: 1099511627776 elements of a storage of 1",
    ),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugated or negated view"),
    "subclass": (lambda: torch.zeros(3).as_subclass(Doubled), "test_torch_file.Doubled|custom class"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_plain_are_refused_by_name(kind: str, legacy: bool, tmp_path: Path) -> None:
    make, message = KINDS[kind]
    path = saved({"model": {"bias": torch.zeros(2), NAME: make()}}, tmp_path / "a.pth", legacy)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_unsupported_dtypes_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({NAME: np.ones(3, np.longdouble)}))
    with pytest.raises(CheckpointError, match=f"'{NAME}' of (float128|float96|longdouble)"):
        read_state_dict(tmp_path / "a.pkl")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int8",
        "uint8",
        "int64",
        "bool",
        "complex64",
    ],
)
def test_every_dtype_of_plain_numbers(dtype: str, legacy: bool, tmp_path: Path) -> None:
    tensor = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to(getattr(torch, dtype))
    got = read_state_dict(saved({"a": tensor, "b": tensor.T, "c": tensor[1:]}, tmp_path / "a.pth", legacy))
    for name, expected in (("a", tensor), ("b", tensor.T), ("c", tensor[1:])):
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name].to(torch.complex64), expected.to(torch.complex64))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_other_entries_of_trainers(legacy: bool, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    parameter = nn.Parameter(torch.ones(2))
    parameter.note = "an attribute"  # type: ignore[attr-defined]
    content = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "best": np.float64(0.5),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "seen": {1, 2},
        "complex": 1j,
        "bytes": b"\x00\xff",
        "parameter": parameter,
    }
    checkpoint = read_checkpoint(saved(content, tmp_path / "a.pth", legacy))
    assert all(torch.equal(checkpoint.model[name], tensor) for name, tensor in net.state_dict().items())
    extra = checkpoint.extra
    assert torch.equal(extra["parameter"], parameter.data)
    for name in ("best", "size", "device", "dtype", "seen", "complex", "bytes"):
        assert extra[name] == content[name]
    assert isinstance(extra["scheduler"]["milestones"], Counter)
    torch.optim.Adam(net.parameters()).load_state_dict(extra["optimizer"])
    scheduler.load_state_dict(extra["scheduler"])
    exponential_average = extra["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(exponential_average, optimizer.state_dict()["state"][0]["exp_avg"])


def test_two_names_of_a_tensor_share_it(tmp_path: Path) -> None:
    weights = torch.arange(4.0)
    got = read_state_dict(saved({"a": weights, "b": weights, "c": weights[2:]}, tmp_path / "a.pth"))
    assert got["a"].data_ptr() == got["b"].data_ptr()
    assert got["c"].tolist() == [2, 3]


def test_archives_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved({"a": torch.arange(3.0)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_dict(path)["a"].tolist() == [0, 1, 2]


def test_a_changed_weight_is_detected_by_its_checksum(tmp_path: Path) -> None:
    path = saved({"a": torch.full((1000,), 7.0)}, tmp_path / "a.pth")
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 7.0) * 9) + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checksum of 'a/data/0' does not match"):
        read_state_dict(path)


def test_compressed_members_are_refused_before_decompression(tmp_path: Path) -> None:
    path = saved({"a": torch.zeros(20_000_000)}, tmp_path / "a.pth")
    rewritten(path, lambda members: None, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="is compressed or encrypted"):
        read_state_dict(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.append(members[0]), "two members have the same name"),
        (lambda members: members.append(("b/data.pkl", b"")), "2 of its members are named data.pkl"),
        (lambda members: members.append(("a/constants.pkl", b"")), "a TorchScript archive"),
        (lambda members: members.clear(), "0 of its members are named data.pkl|begins with"),
        (
            lambda members: members.__setitem__(
                slice(None), [(n, d[:-4] if n == "a/data/0" else d) for n, d in members]
            ),
            "it claims 12 bytes of storage '0'; it has 8",
        ),
    ],
    ids=["twice", "two contents", "a program", "empty", "short storage"],
)
def test_archives_with_other_members(
    change: Callable[[list[tuple[str, bytes]]], Any], message: str, tmp_path: Path
) -> None:
    path = rewritten(saved({"a": torch.arange(3.0)}, tmp_path / "a.pth"), change)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A directory may list the same bytes a thousand times."""
    path = saved({"a": torch.zeros(1000), "b": torch.ones(1000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("a/data/0")
        for index in range(2, 9):
            archive.filelist.append(first)
            archive.NameToInfo[f"a/data/{index}"] = first
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"same name|larger than the file"):
        read_state_dict(path)


def pickled(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, numel: int = 3) -> bytes:
    """Return a state dict with one view of the storage '0'."""

    class Tensors(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if obj == "the storage" else None

    class View:
        def __reduce__(self) -> Any:
            function = torch._utils._rebuild_tensor_v2
            return function, ("the storage", offset, size, stride, False, OrderedDict())

    file = io.BytesIO()
    Tensors(file, 2).dump({"a": View()})
    return file.getvalue()


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (pickled((4,), (1,)), "'a' reaches beyond the 3 elements of its storage"),
        (pickled((2,), (1 << 50,)), "'a' reaches beyond the 3 elements"),
        (pickled((1,), (1,), offset=3), "'a' reaches beyond the 3 elements"),
        (pickled((1,), (1,), offset=-1), "'a' has 1 lengths and 1 strides"),
        (pickled((-1,), (1,)), "is no shape"),
        (pickled((2,), (-1,)), "is no shape"),
        (pickled((1,) * 65, (1,) * 65), "is no shape"),
        (pickled((1 << 80,), (0,)), "is no shape"),
        (pickled((1, 2), (1,)), "'a' has 2 lengths and 1 strides"),
        (pickled((1,), (1,), numel=1 << 50), "it claims 4503599627370496 bytes of storage '0'; it has 12"),
        (pickled((1,), (1,), numel=2), "it claims 8 bytes of storage '0'; it has 12"),
    ],
)
def test_views_beyond_their_storage(view: bytes, message: str, tmp_path: Path) -> None:
    """torch.load exposes the memory behind the storage, or allocates the claimed size."""

    def change(members: list[tuple[str, bytes]]) -> None:
        members[:] = [(name, view if name == "a/data.pkl" else data) for name, data in members]

    path = rewritten(saved({"a": torch.arange(3.0)}, tmp_path / "a.pth"), change)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(path)


def test_many_copies_of_one_storage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detexport.checkpoint.torch_file._SPARE_BYTES", 0)
    weights = torch.zeros(100, 100)
    assert read_state_dict(saved({"a": weights.T}, tmp_path / "a.pth"))["a"].is_contiguous()
    path = saved({f"layer{index}": weights[:, : index + 2].T for index in range(90)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="larger than the file by far"):
        read_state_dict(path)
