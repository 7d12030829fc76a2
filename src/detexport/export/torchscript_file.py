"""TorchScript files whose bytes say nothing of the machine, folder, process or hour they were written in."""

import io
import sys
import zipfile
from pathlib import Path

import torch

from detexport.errors import ExportError
from detexport.export.torchscript_type_numbers import renumber_types
from detexport.formats.zip_archive import repack_zip

MAIN_FILE = "model.pt"
# Source ranges with absolute paths, and a checksum over them; a loaded module works without either.
LEFT_OUT = (".debug_pkl", ".data/serialization_id")
RENAMED = "renamed/"
"""Below it, until the archive is repacked, are the members that take the place of others."""


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
    """Save a module so that the same module gives the same bytes, whatever the process did before.

    Args:
        module: a traced or scripted module.
        path: the file to write.
    """
    # Into memory first: torch's own writer ends the whole process where the disk is full.
    saved = io.BytesIO(module.save_to_buffer())
    old = _append_renamed(saved)
    repack_zip(saved, path, (*LEFT_OUT, *old), lambda name: name.replace(RENAMED, "", 1))


def _append_renamed(saved: io.BytesIO) -> tuple[str, ...]:
    """Append code and pickles whose types are counted anew; gives the names of those that they replace."""
    with zipfile.ZipFile(saved, "a") as archive:
        old = {name: archive.read(name) for name in archive.namelist() if name.endswith((".py", ".pkl"))}
        root = next(iter(old)).partition("/")[0]
        members = {name.partition("/")[2]: content for name, content in old.items()}
        for name, content in renumber_types(members).items():
            archive.writestr(f"{root}/{RENAMED}{name}", content)
    return tuple(old)
