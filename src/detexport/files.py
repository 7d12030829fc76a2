"""Files that are whole or absent: write beside, then rename; digests of what was written."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from detexport.errors import DetexportError, DiskError, OutputError
from detexport.json_values import parse_json
from detexport.process import interruptible, shielded

OF_THE_PLACE = {
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "ENOSPC", "ENOTDIR", "EPERM", "EROFS")
    if hasattr(errno, name)
}
"""Errors that are the fault of a folder or a disk."""
OF_THE_DISK = {getattr(errno, name) for name in ("EDQUOT", "EIO", "ENOSPC") if hasattr(errno, name)}
"""Those of them that no other path on the same disk would mend."""
NATIVE_WRITE_ERRORS = ("No space left on device", "iostream error")
"""What writers in native code say instead, those of safetensors and OpenVINO."""

PARTIAL = ".partial-"
"""In the name of a folder that a run works in, between the name of what it makes and letters by chance."""
_LEFT = re.compile(rf"\.(.+){re.escape(PARTIAL)}[^.]+")
LOCK, OLD = "lock", "old"
"""In a folder that a run works in: what it has locked while it lives, and what it puts something new for."""


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

    What a killed run left behind beside ``path`` is removed first; what a living one writes there stays.
    """
    with _workplace(path) as folder:
        # In a folder of its own, so that the name stays: some writers choose the format by it.
        (folder / "new").mkdir()
        temporary = folder / "new" / path.name
        with interruptible():
            yield temporary
        temporary.replace(path)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the place of ``path`` when the block ends without an error.

    At every moment the old folder or the new one is there as a whole: if not as ``path``, because a run was
    killed between two renames, then where the next run puts it back from. What else a killed run left behind
    beside ``path`` is removed then; what a living one fills there stays.

    Raises:
        OutputError: see ``replaceable``.
    """
    path = replaceable(path)
    with _workplace(path) as folder:
        new = folder / "new"
        new.mkdir()
        with interruptible():
            yield new
        with locked(path.parent):
            try:
                if path.exists():
                    path.rename(folder / OLD)
                new.rename(path)
            finally:
                _settle(folder, path)


def replaceable(path: Path) -> Path:
    """Where ``path`` leads, once symbolic links are followed, if a new folder can take its place.

    Raises:
        OutputError: a file lies there, or a folder that no other can take the place of.
    """
    real = Path(os.path.realpath(path))
    if os.path.lexists(real) and not real.is_dir():
        fault = "a file"
    elif Path.cwd().is_relative_to(real):
        fault = "the folder that this process works in, or one above it"
    elif os.path.ismount(real):
        fault = "a folder that a file system is mounted on"
    else:
        return real
    raise OutputError(
        f"{path} cannot be replaced",
        got=f"{real}, {fault}",
        expected="a new folder, or one whose place another can take",
        remedy="write to another folder",
    )


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that is removed in the end: by the next run, if this one is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}{PARTIAL}"
    with shielded(), ExitStack() as stack:
        with locked(path.parent):
            _remove_left([entry for entry in path.parent.iterdir() if entry.name.startswith(prefix)])
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
            (folder / LOCK).touch()
            stack.enter_context(locked(folder / LOCK))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def remove_leftovers(root: Path) -> list[Path]:
    """Remove what killed runs left anywhere below a folder; what a living run fills stays.

    Returns:
        the folders that were removed; what was set aside for a replacement that never came is put back.
    """
    removed = []
    for folder, names, _ in os.walk(root):
        parent = Path(folder)
        left = [parent / name for name in names if _LEFT.fullmatch(name)]
        if left:
            with suppress(FileNotFoundError), locked(parent):
                removed += _remove_left(left)
        names[:] = [name for name in names if not _LEFT.fullmatch(name)]
    return removed


def _remove_left(folders: list[Path]) -> list[Path]:
    """Remove those workplaces whose run was killed; the lock of the folder they are in is held."""
    left = [folder for folder in folders if folder.is_dir() and not _is_owned(folder)]
    for folder in left:
        name = _LEFT.fullmatch(folder.name)
        if name:
            _settle(folder, folder.with_name(name[1]))
        shutil.rmtree(folder, ignore_errors=True)
    return left


def _settle(folder: Path, path: Path) -> None:
    """Put back what was set aside from ``path`` into its workplace, unless something else has its place."""
    if (folder / OLD).exists():
        # By another name first: what is half removed is never put back.
        (folder / OLD).rename(folder / "removed" if path.exists() else path)


def _is_owned(folder: Path) -> bool:
    """Whether the run whose workplace it is lives: its lock ends with it."""
    try:
        with locked(folder / LOCK, wait=False):
            return False
    except FileNotFoundError:  # it was killed before it had one
        return False
    except BlockingIOError:
        return True


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or a folder, which one at a time may have of those on this machine.

    Raises:
        BlockingIOError: another has it, and is not waited for.
    """
    import fcntl  # not on Windows, where artifacts are run but not made

    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of an error while ``path`` is written that the folder or the disk is at fault, if it is.

    Raises:
        OutputError: ``path`` cannot be written; a ``DiskError`` where there is no room for it.
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


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, max_bytes: int | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: of a regular file; anything else could make the reader wait without end.
        max_bytes: a larger file is not read; None reads any.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a file, too large, or not JSON.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is not a file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(f"{path.name} has {status.st_size} bytes, more than {max_bytes}")
    return parse_json(path.read_bytes())


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
