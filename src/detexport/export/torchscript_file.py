"""TorchScript files whose bytes say nothing of the machine, the folder or the hour they were written in."""

import io
import sys
from pathlib import Path

import torch

from detexport.errors import ExportError
from detexport.files import repack_zip

MAIN_FILE = "model.pt"
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
    repack_zip(io.BytesIO(module.save_to_buffer()), path, LEFT_OUT)
