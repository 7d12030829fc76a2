"""Read and write JSON files; report write errors by their cause."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detexport.errors import DetexportError, DiskError, OutputError
from detexport.system.atomic import atomic_file
from detexport.system.json_values import parse_json

OF_THE_PLACE = {
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "ENOSPC", "ENOTDIR", "EPERM", "EROFS")
    if hasattr(errno, name)
}
"""Error numbers that a folder or a disk causes."""
OF_THE_DISK = {getattr(errno, name) for name in ("EDQUOT", "EIO", "ENOSPC") if hasattr(errno, name)}
"""Those of them that another path on the same disk would not solve."""
NATIVE_WRITE_ERRORS = ("No space left on device", "iostream error")
"""Messages of the native writers of safetensors and OpenVINO, which set no error number."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a URL, such as ``https://...``, not a file's path."""
    return "://" in os.fspath(path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, max_bytes: int | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: a regular file; anything else, such as a pipe, could block the reader.
        max_bytes: largest size of the file; None is no limit.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, too large, or not JSON.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is not a file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(f"{path.name} has {status.st_size} bytes, more than {max_bytes}")
    return parse_json(path.read_bytes())


def remove_others(folder: Path, kept: Container[str]) -> list[Path]:
    """Remove the files and folders in ``folder`` that are not named in ``kept``; return their paths.

    Hidden ones stay: they are unfinished files of a stage that another process runs.
    """
    others = [path for path in folder.glob("[!.]*") if path.name not in kept]
    for path in others:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return others


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an error that the folder or the disk causes while ``path`` is written into an ``OutputError``.

    Raises:
        OutputError: ``path`` cannot be written; a ``DiskError`` if the disk is full or fails.
    """
    try:
        yield
    except Exception as error:
        native, code = (
            any(words in str(error) for words in NATIVE_WRITE_ERRORS),
            getattr(error, "errno", None),
        )
        if isinstance(error, DetexportError) or not (native or code in OF_THE_PLACE):
            raise
        raise (DiskError if native or code in OF_THE_DISK else OutputError)(
            f"cannot write {path}",
            got=getattr(error, "strerror", None) or error,
            expected="a folder that can be written, with room for what is written",
            remedy="make room, or write elsewhere",
        ) from error
