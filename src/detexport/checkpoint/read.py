"""Reading a checkpoint file into tensors. Nothing in a file is ever executed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from detexport.checkpoint.plain_pickle import load_plain_pickle
from detexport.errors import CheckpointError
from detexport.files import atomic_file

FORMATS = (".pth", ".pkl", ".safetensors")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, on the CPU.

    Args:
        path: a ``.pth`` (``torch.save`` of a state dict, or of a dict with it under ``model``), a model zoo's
            ``.pkl`` (numpy arrays under ``model``), or a ``.safetensors``. What is not an array, such as a
            count of iterations, is left out.

    Raises:
        CheckpointError: the file is missing, is of another format, is broken, or asks to run code.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}",
            got="no such file",
            expected=f"a file of the kind {', '.join(FORMATS)}",
            remedy="give the path of the model's weights, or train them",
        )
    readers = {".pth": _read_pth, ".pkl": _read_pkl, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise CheckpointError(
            f"unknown kind of checkpoint {path}",
            got=path.suffix or "no suffix",
            expected=" or ".join(FORMATS),
        )
    return readers[path.suffix](path)


def write_state_dict(state_dict: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all; the same tensors give the same bytes."""
    # Copies: tied tensors, and views of one storage, are written each as its own.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in sorted(state_dict.items())
    }
    with atomic_file(path) as temporary:
        # Not save_file, whose files only their owner may read.
        temporary.write_bytes(save(plain))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # what a broken file raises is nobody's promise
        raise _broken(path, error, "a safetensors file") from error


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises nearly anything
        raise _broken(
            path, error, "tensors and plain containers, as torch.save writes a state dict"
        ) from error
    return _tensors(_model_part(content), path)


def _read_pkl(path: Path) -> dict[str, Tensor]:
    return _tensors(_model_part(load_plain_pickle(path)), path)


def _model_part(content: Any) -> Any:
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return content["model"]
    return content


def _tensors(state_dict: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state_dict, dict):
        raise CheckpointError(
            f"{path} holds no state dict",
            got=type(state_dict).__name__,
            expected="a dict of tensors by name, or one under 'model'",
            remedy="save the model's state_dict()",
        )
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if isinstance(value, Tensor | np.ndarray | np.generic):
            if not isinstance(name, str):
                raise _not_named(path, name)
            tensors[name] = _tensor(value)
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensor",
            got=f"entries {sorted(map(str, state_dict))[:5]}",
            expected="a dict of tensors by name, or one under 'model'",
            remedy="save the model's state_dict()",
        )
    return tensors


def _tensor(value: Tensor | np.ndarray | np.generic) -> Tensor:
    if isinstance(value, Tensor):
        # Strided views of one storage become tensors of their own.
        return value.detach().contiguous()
    array = np.array(value)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _not_named(path: Path, name: Any) -> CheckpointError:
    return CheckpointError(
        f"{path} holds a tensor without a name",
        got=f"the key {name!r}",
        expected="names such as 'backbone.fpn_output2.weight'",
        remedy="save the model's state_dict()",
    )


def _broken(path: Path, error: Exception, expected: str) -> CheckpointError:
    return CheckpointError(
        f"cannot read the checkpoint {path}",
        got=f"{type(error).__name__}: {_cause(error)}",
        expected=expected,
        remedy="download or save the file again; a file that asks to run code is never loaded",
    )


def _cause(error: Exception) -> str:
    """The line that says what is wrong; torch puts advice around it that would run the file."""
    refused = re.search(
        r"^.*?((?:un|Un)supported .*?)(?: was not an allowed global.*)?$", str(error), re.MULTILINE
    )
    return refused[1] if refused else str(error).partition("\n")[0]
