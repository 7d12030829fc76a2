"""Files that are whole or absent: write beside, then rename; digests of what was written."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detexport.errors import DetexportError, OutputError

OF_THE_PLACE = {
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "ENOSPC", "ENOTDIR", "EPERM", "EROFS")
    if hasattr(errno, name)
}
"""Errors that are the fault of a folder or a disk."""
NATIVE_WRITE_ERRORS = ("No space left on device", "iostream error")
"""What writers in native code say instead, those of safetensors and OpenVINO."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is an address, such as ``https://...``, not a file's path."""
    return "://" in os.fspath(path)


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_tree(path: Path) -> str:
    """Hex digest of a file's bytes, or of the names and bytes of all files of a folder."""
    if path.is_file():
        return sha256_file(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    return sha256_json([(file.relative_to(path).as_posix(), sha256_file(file)) for file in files])


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``path`` by one rename, or vanishes if the block raises.

    What a killed run left behind beside ``path`` is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    for stale in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
        stale.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the place of ``path`` when the block ends without an error.

    What a killed run left behind beside ``path`` is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    for stale in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of an error while ``path`` is written that the folder or the disk is at fault, if it is.

    Raises:
        OutputError: ``path`` cannot be written, or there is no room for it.
    """
    try:
        yield
    except Exception as error:
        native = any(words in str(error) for words in NATIVE_WRITE_ERRORS)
        if isinstance(error, DetexportError) or not (native or getattr(error, "errno", None) in OF_THE_PLACE):
            raise
        raise OutputError(
            f"cannot write {path}",
            got=getattr(error, "strerror", None) or error,
            expected="a folder that can be written, with room for what is written",
            remedy="make room, or write elsewhere",
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


ARCHIVE_ROOT = "model"
"""The folder in an archive that all its members lie in; torch names it after a file, or makes a name up."""


def repack_zip(
    source: Path | IO[bytes],
    target: Path | IO[bytes],
    left_out: tuple[str, ...] = (),
    rename: Callable[[str], str] = str,
) -> None:
    """Copy an archive so that its bytes say nothing of the hour, nor of the order it was written in.

    Args:
        source: an archive whose members are not compressed, as torch writes them.
        target: the archive to write.
        left_out: ends of the names of members that are dropped.
        rename: gives each of the others its name, from its name below ``ARCHIVE_ROOT``.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for member in sorted(old.infolist(), key=lambda info: info.filename):
            if not member.filename.endswith(left_out):
                in_root = f"{ARCHIVE_ROOT}/{member.filename.partition('/')[2]}"
                _copy_member(old, member, new, rename(in_root))


def _copy_member(
    source: zipfile.ZipFile, member: zipfile.ZipInfo, target: zipfile.ZipFile, name: str
) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    data = source.read(member)
    # Tensors start at a multiple of 64 bytes, as torch.save aligns them for memory mapping.
    padding = -(target.fp.tell() + 30 + len(info.filename.encode()) + 4) % 64  # type: ignore[union-attr]
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"\0" * padding
    target.writestr(info, data)
