"""Reader of files of ``torch.save``, both zip archives and the older format.

``torch.load`` is unsafe: it allocates the sizes that a file claims, decompresses members, and a tensor that
is larger than its storage exposes the memory behind it. Here a tensor is a description until its storage has
been compared with the bytes in the file.
"""

import collections
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from detexport.checkpoint.plain_pickle import (
    Names,
    PlainUnpickler,
    Section,
    StandIn,
    is_count,
    lengths,
    resolve,
    word,
)
from detexport.errors import shown

ZIP = b"PK\x03\x04"
# The older format: a pickle of protocol 2 of this number, then more pickles.
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SPARE_BYTES = 1 << 28
"""Memory for copies of overlapping views, in addition to twice the size of the file."""


@dataclass
class Storage:
    """A storage in the file, which is read with its first tensor.

    Args:
        size_bytes: number of bytes.
        read: reads the bytes.
    """

    size_bytes: int
    read: Callable[[], np.ndarray]
    untyped: torch.UntypedStorage | None = None

    def load(self) -> torch.UntypedStorage:
        """Return the bytes, which are read once for all tensors."""
        if self.untyped is None:
            self.untyped = torch.from_numpy(self.read()).untyped_storage()
        return self.untyped


@dataclass
class Claim:
    """A pickle's description of a storage: its elements have this dtype."""

    storage: Storage
    dtype: torch.dtype


@dataclass
class _Memory:
    """Number of bytes that may still be copied."""

    left: int


@dataclass
class _Strided(StandIn):
    """Stand-in for a tensor: a view of a storage."""

    claim: Claim
    dtype: torch.dtype
    offset: Any
    size: Any
    stride: Any
    memory: _Memory = field(repr=False)

    def resolve(self, name: str) -> Tensor:
        size, stride = lengths(self.size), lengths(self.stride)
        storage, numel = self.claim.storage, math.prod(size)
        available = storage.size_bytes // self.dtype.itemsize
        if len(size) != len(stride) or not is_count(self.offset):
            raise pickle.UnpicklingError(f"{shown(name)} has {len(size)} lengths and {len(stride)} strides")
        if not numel:
            return torch.empty(size, dtype=self.dtype)
        last = self.offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= available:
            raise pickle.UnpicklingError(
                f"{shown(name)} reaches beyond the {available} elements of its storage"
            )
        if numel > available and numel * self.dtype.itemsize > self.memory.left:
            raise pickle.UnpicklingError(
                f"{shown(name)} is an expanded tensor: {shown(numel)} elements of a storage of {available}"
            )
        view = torch.empty(0, dtype=self.dtype).set_(storage.load(), self.offset, size, stride)
        if not view.is_contiguous():
            self.memory.left -= numel * self.dtype.itemsize
            if self.memory.left < 0:
                raise pickle.UnpicklingError(f"{shown(name)} and other views are larger than the file by far")
        # Strided views of one storage become separate tensors.
        return view.contiguous()


class _Refused(StandIn):
    """Stand-in for an unsupported kind of tensor.

    Args:
        what: the kind, for the error.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def resolve(self, name: str) -> Any:
        raise pickle.UnpicklingError(f"{shown(name)} is {self.what}; expected a dense tensor of numbers")


def _refusing(what: str) -> Callable[..., _Refused]:
    return lambda *_: _Refused(what)


_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    # Of quantized tensors, which are refused.
    "QInt8": torch.int8,
    "QUInt8": torch.uint8,
    "QInt32": torch.int32,
    "QUInt4x2": torch.uint8,
    "QUInt2x4": torch.uint8,
}
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_PLAIN_TENSORS = ("torch.Tensor", "torch.nn.Parameter", "torch.nn.Buffer")
_REBUILT_AS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, which has no values",
    "_rebuild_wrapper_subclass": "a tensor of a custom class",
}


def _as_it_is(data: Any, *_: object) -> Any:
    return data


def _of_type(function: Any, tensor_type: Any, arguments: Any, _state: Any) -> Any:
    """Return a plain tensor without its attributes; refuse tensors of other classes."""
    known = isinstance(tensor_type, str) and tensor_type in _PLAIN_TENSORS and callable(function)
    return function(*arguments) if known else _Refused("a tensor of a custom class")


class _TorchUnpickler(PlainUnpickler):
    """Unpickler of the tensors and plain containers that ``torch.save`` writes.

    Args:
        file: read from its current position.
        memory: limit of the memory of copied tensors.
        storage: returns the storage of a key, given the number and the size in bytes of its elements.
    """

    def __init__(self, file: Section, memory: _Memory, storage: Callable[[str, int, int], Storage]) -> None:
        self.memory = memory
        self.storage = storage
        super().__init__(file, self._torch_names())

    def _torch_names(self) -> Names:
        return {
            ("collections", "Counter"): self._counter,
            ("torch", "Size"): self._size,
            ("torch", "device"): lambda *parts: torch.device(*(word(str(part)) for part in parts)),
            **{("torch", name): dtype for name, dtype in _DTYPES.items()},
            **{
                (module, f"{name}Storage"): dtype
                for module in ("torch", "torch.cuda")
                for name, dtype in (*_STORAGES.items(), ("Untyped", torch.uint8))
            },
            ("torch.storage", "UntypedStorage"): torch.uint8,
            ("torch", "Tensor"): "torch.Tensor",
            ("torch.nn.parameter", "Parameter"): "torch.nn.Parameter",
            ("torch.nn.parameter", "Buffer"): "torch.nn.Buffer",
            # Arguments of kinds of tensors that are refused when they are resolved.
            **{("torch", f"per_{kind}"): kind for kind in ("tensor_affine", "channel_affine")},
            ("torch.serialization", "_get_layout"): lambda layout: layout,
            ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
            **{
                ("torch._utils", name): stand_in
                for name, stand_in in (
                    ("_rebuild_tensor", self._tensor),
                    ("_rebuild_tensor_v2", self._tensor),
                    ("_rebuild_tensor_v3", self._tensor_of_dtype),
                    ("_rebuild_parameter", _as_it_is),
                    ("_rebuild_parameter_with_state", _as_it_is),
                    ("_rebuild_device_tensor_from_cpu_tensor", _as_it_is),
                    ("_rebuild_device_tensor_from_numpy", _as_it_is),
                    *((name, _refusing(what)) for name, what in _REBUILT_AS.items()),
                )
            },
        }

    def persistent_load(self, pid: Any) -> Claim:
        """Return the storage of ("storage", class, key, device, number of elements[, view])."""
        if (
            not isinstance(pid, tuple)
            or not 5 <= len(pid) <= 6
            or pid[0] != "storage"
            or pid[5:] not in ((), (None,))
        ):
            raise pickle.UnpicklingError(f"it refers to {shown(pid)}, which is no storage")
        _word, dtype, key, _device, numel = pid[:5]
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not is_count(numel):
            raise pickle.UnpicklingError(f"it refers to {shown(pid)}, which is no storage")
        return Claim(self.storage(key, numel, dtype.itemsize), dtype)

    def _tensor(self, claim: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StandIn:
        """Return the stand-in; ``rest``: requires_grad, hooks, whether it is conjugated or negated."""
        if not isinstance(claim, Claim):
            raise pickle.UnpicklingError(f"a tensor is a view of a {type(claim).__name__}")
        return self._strided(claim, claim.dtype, offset, size, stride, rest[2:])

    def _tensor_of_dtype(
        self, claim: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *rest: Any
    ) -> StandIn:
        if not isinstance(claim, Claim) or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a tensor is a view of a {type(claim).__name__}")
        return self._strided(claim, dtype, offset, size, stride, rest)

    def _strided(
        self, claim: Claim, dtype: torch.dtype, offset: Any, size: Any, stride: Any, lazily: tuple[Any, ...]
    ) -> StandIn:
        if any(lazily):
            return _Refused("a conjugated or negated view")
        if not (dtype.is_floating_point or dtype.is_complex or dtype in _INTEGERS) or "x2" in str(dtype):
            return _Refused(f"a tensor of {dtype}")
        return _Strided(claim, dtype, offset, size, stride, self.memory)

    def _size(self, entries: Any = ()) -> torch.Size:
        return torch.Size(self.copied(entries, (list, tuple)))

    def _counter(self, entries: Any = ()) -> "collections.Counter[Any]":
        return collections.Counter(self.copied(entries, dict))


_INTEGERS = (
    torch.bool,
    *(getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)),
)


def load_torch(path: Path) -> Any:
    """Load a file of ``torch.save`` on the CPU; no code in it is executed.

    Raises:
        Exception: of nearly any type, if the file is broken or has other content than tensors and plain
            containers.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        memory = _Memory(2 * size + _SPARE_BYTES)
        is_zip = file.read(len(ZIP)) == ZIP
        return (_load_zip if is_zip else _load_legacy)(file, size, memory)


def _load_zip(file: IO[bytes], size: int, memory: _Memory) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = _checked(archive.infolist(), size)
    (root,) = _roots(members)
    storages: dict[str, Storage] = {}
    if f"{root}byteorder" in members and _read(file, members[f"{root}byteorder"]) == b"big":
        raise pickle.UnpicklingError("it was written on a big-endian machine")

    def storage(key: str, numel: int, itemsize: int) -> Storage:
        size_bytes = numel * itemsize
        if key not in storages:
            member = members.get(f"{root}data/{key}")
            if member is None or member.file_size != size_bytes:
                there = "it has none" if member is None else f"it has {member.file_size}"
                raise pickle.UnpicklingError(
                    f"it claims {shown(size_bytes)} bytes of storage {shown(key)}; {there}"
                )
            storages[key] = Storage(member.file_size, lambda: _numbers(file, member))
        if storages[key].size_bytes != size_bytes:
            raise pickle.UnpicklingError(f"it claims two sizes of storage {shown(key)}")
        return storages[key]

    start, length = _place(file, members[f"{root}data.pkl"])
    return resolve(_TorchUnpickler(Section(file, start, length), memory, storage).load())


def _checked(infos: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name; raise unless they are uncompressed and unique."""
    members = {info.filename: info for info in infos}
    if len(members) < len(infos):
        raise zipfile.BadZipFile("two members have the same name")
    for info in infos:
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & 1
        ):
            raise zipfile.BadZipFile(f"the member {shown(info.filename)} is compressed or encrypted")
    if sum(info.file_size for info in infos) > size:
        raise zipfile.BadZipFile("its members are larger than the file")
    return members


def _roots(members: dict[str, zipfile.ZipInfo]) -> list[str]:
    """Return the root folder of the archive."""
    roots = [
        name.removesuffix("data.pkl")
        for name in members
        if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise zipfile.BadZipFile(f"{len(roots)} of its members are named data.pkl")
    if f"{roots[0]}constants.pkl" in members:
        raise zipfile.BadZipFile("it is a TorchScript archive; expected a state dict")
    return roots


def _place(file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, int]:
    """Return the offset and the length of a member's content."""
    file.seek(info.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != ZIP:
        raise zipfile.BadZipFile(f"there is no member {shown(info.filename)} at its offset in the directory")
    return info.header_offset + _LOCAL_HEADER.size + name_length + extra_length, info.file_size


def _numbers(file: IO[bytes], info: zipfile.ZipInfo) -> np.ndarray:
    start, length = _place(file, info)
    content = _bytes_at(file, start, length)
    # torch may omit the checksum.
    if info.CRC not in (0, zlib.crc32(content.data)):
        raise zipfile.BadZipFile(f"the checksum of {shown(info.filename)} does not match its content")
    return content


def _read(file: IO[bytes], info: zipfile.ZipInfo) -> bytes:
    return Section(file, *_place(file, info)).read(info.file_size)


def _bytes_at(file: IO[bytes], start: int, length: int) -> np.ndarray:
    file.seek(start)
    content = np.fromfile(file, np.uint8, length)
    if len(content) != length:
        raise EOFError(f"expected {length} bytes, {len(content)} are left")
    return content


def _load_legacy(file: IO[bytes], size: int, memory: _Memory) -> Any:
    """Load the pickles of magic number, version, machine, content and storage keys, then the storages."""
    claimed: dict[str, tuple[int, Storage]] = {}

    def storage(key: str, numel: int, itemsize: int) -> Storage:
        count, made = claimed.setdefault(key, (numel, Storage(numel * itemsize, _nothing)))
        if (count, made.size_bytes) != (numel, numel * itemsize):
            raise pickle.UnpicklingError(f"it claims two sizes of storage {shown(key)}")
        return made

    section = Section(file, len(LEGACY), size - len(LEGACY))
    version, machine = PlainUnpickler(section).load(), PlainUnpickler(section).load()
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise pickle.UnpicklingError(f"it is of version {shown(version)} or of a big-endian machine")
    content = _TorchUnpickler(section, memory, storage).load()
    keys = PlainUnpickler(section).load()
    if not isinstance(keys, list) or sorted(word(key) for key in keys) != sorted(claimed):
        raise pickle.UnpicklingError("it does not list each of its storages once")
    for key in keys:
        numel, made = claimed[key]
        if section.read(8) != struct.pack("<q", numel) or made.size_bytes > section.left():
            raise EOFError(f"storage {shown(key)} does not have the claimed {numel} elements")
        made.read = _reader(file, file.tell(), made.size_bytes)
        file.seek(made.size_bytes, 1)
    return resolve(content)


def _reader(file: IO[bytes], start: int, length: int) -> Callable[[], np.ndarray]:
    return lambda: _bytes_at(file, start, length)


def _nothing() -> np.ndarray:
    raise EOFError("it does not have a storage that it refers to")
