"""Reading of checkpoint files into tensors; no code in a file is executed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from detexport.checkpoint.plain_pickle import load_plain_pickle
from detexport.checkpoint.torch_file import LEGACY, ZIP, load_torch
from detexport.errors import CheckpointError, listed, shown
from detexport.system.atomic import atomic_file

FORMATS = "a .pth of torch.save, a model zoo's .pkl, or a .safetensors"
# The upper half of the header length, which is below 4 GiB, and the first byte of the header.
_SAFETENSORS = b"\0\0\0\0{"
# The first byte of a pickled container in protocols 2 and later, 1, and 0.
_PICKLE = (b"\x80", b"}", b"(", b"c")
_PARTS = ("model", "blobs")
"""Keys of the tensors in files with other entries: of trainers and zoos (``model``), Caffe2 (``blobs``)."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Args:
        model: the model's tensors by name, on the CPU.
        extra: other entries, such as the optimizer's state and the iteration.
    """

    model: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; see ``read_checkpoint``."""
    return read_checkpoint(path).model


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; its format is recognized by its content, not by its name.

    Args:
        path: a file of ``torch.save`` (a state dict, or a dict with it under ``model``), a pickle of numpy
            arrays by name (alone, or under ``model`` or Caffe2's ``blobs``), or a safetensors file. Entries
            that are not arrays, such as a number of iterations, are left out of the tensors.

    Raises:
        CheckpointError: the file is missing, has another format, is broken, requests the execution of code,
            or has a tensor that is not a dense tensor of numbers: sparse, quantized, nested, expanded, on the
            meta device, or of a custom class.
    """
    start = _beginning(path)
    if start.startswith((ZIP, LEGACY)):
        return _parted(_read_torch(path), path)
    if start[4:9] == _SAFETENSORS:
        return Checkpoint(_read_safetensors(path))
    if start.startswith(_PICKLE):
        return _parted(load_plain_pickle(path), path)
    raise CheckpointError(
        f"cannot read the checkpoint {path}",
        got=f"a file that begins with {start!r}" if start else "an empty file",
        expected=FORMATS,
        remedy="give a checkpoint; a failed download often leaves a web page or nothing",
    )


def _beginning(path: Path) -> bytes:
    """Return the first bytes of a file, by which its format is recognized."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(len(LEGACY))
        got = "no such file"
    except OSError as error:
        got = error.strerror or type(error).__name__
    raise CheckpointError(
        f"no checkpoint at {path}",
        got=got,
        expected=f"a file: {FORMATS}",
        remedy="give the path of the model's weights, or train them",
    )


def write_state_dict(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically; the same tensors give the same bytes."""
    with atomic_file(path) as temporary:
        # save_file creates files that only their owner may read.
        temporary.write_bytes(_as_safetensors(state_dict))


def digest_state_dict(state_dict: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the file that ``write_state_dict`` writes."""
    return hashlib.sha256(_as_safetensors(state_dict)).hexdigest()


def _as_safetensors(state_dict: Mapping[str, Tensor]) -> bytes:
    # Copies, since safetensors refuses tensors that share storage.
    return save(
        {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in sorted(state_dict.items())
        }
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # the errors for broken files are not documented
        raise _broken(path, error, "a safetensors file") from error


def _read_torch(path: Path) -> Any:
    try:
        return load_torch(path)
    except Exception as error:  # a broken pickle can raise nearly any error
        raise _broken(
            path, error, "tensors and plain containers, as torch.save writes a state dict"
        ) from error


def _parted(content: Any, path: Path) -> Checkpoint:
    for part in _PARTS:
        if isinstance(content, dict) and isinstance(content.get(part), dict):
            extra = {str(name): value for name, value in content.items() if name != part}
            return Checkpoint(_tensors(content[part], path), extra)
    return Checkpoint(_tensors(content, path))


def _tensors(state_dict: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state_dict, dict):
        raise CheckpointError(
            f"{path} holds no state dict",
            got=type(state_dict).__name__,
            expected="a dict of tensors by name, or one under 'model'",
            remedy="save the model's state_dict()",
        )
    tensors: dict[str, Tensor] = {}
    done: dict[int, Tensor] = {}  # several names may refer to one array
    for name, value in state_dict.items():
        if isinstance(value, Tensor | np.ndarray | np.generic):
            if not isinstance(name, str):
                raise _not_named(path, name)
            if id(value) not in done:
                done[id(value)] = _tensor(value, name, path)
            tensors[name] = done[id(value)]
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensor",
            got=f"entries {listed(map(shown, state_dict))}",
            expected="a dict of tensors by name, or one under 'model'",
            remedy="save the model's state_dict()",
        )
    return tensors


def _tensor(value: Tensor | np.ndarray | np.generic, name: str, path: Path) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.array(value)
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise CheckpointError(
            f"{path} holds a tensor of a dtype that torch does not support",
            got=f"{shown(name)} of {array.dtype}",
            expected="numbers of at most 64 bits",
            remedy="save it as float32",
        ) from error


def _not_named(path: Path, name: Any) -> CheckpointError:
    return CheckpointError(
        f"{path} holds a tensor without a name",
        got=f"the key {shown(name)}",
        expected="names such as 'backbone.fpn_output2.weight'",
        remedy="save the model's state_dict()",
    )


def _broken(path: Path, error: Exception, expected: str) -> CheckpointError:
    return CheckpointError(
        f"cannot read the checkpoint {path}",
        got=f"{type(error).__name__}: {error}",
        expected=expected,
        remedy="download or save the file again; a file that requests the execution of code is never loaded",
    )
