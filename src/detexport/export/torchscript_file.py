"""TorchScript files whose bytes do not depend on machine, folder, process or time."""

import io
import sys
import zipfile
from pathlib import Path

import torch

from detexport.errors import ExportError
from detexport.export.torchscript_type_numbers import renumber_types
from detexport.formats.zip_archive import repack_zip

MAIN_FILE = "model.pt"
# Source ranges with absolute paths, and a checksum over them; a loaded module needs neither.
LEFT_OUT = (".debug_pkl", ".data/serialization_id")
RENAMED = "renamed/"
"""Prefix of the members that replace others when the archive is repacked."""


def require_fixed_hashes() -> None:
    """Check that the process has fixed hashes: they determine the order of a scripted module's constants.

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
    """Save a module so that its bytes do not depend on what the process did before.

    Args:
        module: a traced or scripted module.
        path: the file to write.
    """
    # Into memory first: torch's writer aborts the process if the disk is full.
    saved = io.BytesIO(module.save_to_buffer())
    old = _append_renamed(saved)
    repack_zip(saved, path, (*LEFT_OUT, *old), lambda name: name.replace(RENAMED, "", 1))


def _append_renamed(saved: io.BytesIO) -> tuple[str, ...]:
    """Append code and pickles with renumbered types; return the names of the members that they replace."""
    with zipfile.ZipFile(saved, "a") as archive:
        old = {name: archive.read(name) for name in archive.namelist() if name.endswith((".py", ".pkl"))}
        root = next(iter(old)).partition("/")[0]
        members = {name.partition("/")[2]: content for name, content in old.items()}
        for name, content in renumber_types(members).items():
            archive.writestr(f"{root}/{RENAMED}{name}", content)
    return tuple(old)
