"""TorchScript files whose bytes say nothing of the machine, the folder or the hour they were written in."""

import io
import sys
import zipfile
from pathlib import Path

import torch

from detexport.errors import ExportError

MAIN_FILE = "model.pt"
# The archive's root folder is named after the file, as torch names it.
ROOT = Path(MAIN_FILE).stem
FIXED_DATE = (1980, 1, 1, 0, 0, 0)
# Source ranges with absolute paths, and a checksum over them; a loaded module works without either.
LEFT_OUT = (".debug_pkl", ".data/serialization_id")


def require_fixed_hashes() -> None:
    """Refuse a process whose hashes are random: the order of a scripted module's constants follows them.

    Raises:
        ExportError: PYTHONHASHSEED is not 0.
    """
    if sys.flags.hash_randomization:
        raise ExportError(
            "a scripted file is not reproducible in this process",
            got="random hashes of strings",
            expected="PYTHONHASHSEED=0",
            remedy="start Python with PYTHONHASHSEED=0 in the environment",
        )


def save_reproducibly(module: torch.jit.ScriptModule, path: Path) -> None:
    """Save a module so that the same module gives the same bytes.

    Args:
        module: a traced or scripted module.
        path: the file to write.
    """
    # Into memory first: torch's own writer ends the whole process where the disk is full.
    saved = io.BytesIO(module.save_to_buffer())
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for member in sorted(source.infolist(), key=lambda info: info.filename):
            if not member.filename.endswith(LEFT_OUT):
                _copy_member(source, member, target)


def _copy_member(source: zipfile.ZipFile, member: zipfile.ZipInfo, target: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo(f"{ROOT}/{member.filename.partition('/')[2]}", FIXED_DATE)
    data = source.read(member)
    # Tensors start at a multiple of 64 bytes, as torch.save aligns them for memory mapping.
    padding = -(target.fp.tell() + 30 + len(info.filename.encode()) + 4) % 64  # type: ignore[union-attr]
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"\0" * padding
    target.writestr(info, data)
