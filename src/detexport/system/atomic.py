"""Write files and folders atomically: under a temporary name, then by a rename."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from detexport.errors import OutputError
from detexport.system.locks import locked
from detexport.system.process import interruptible, shielded

PARTIAL = ".partial-"
"""In the name of a run's temporary folder, between the name of its output and a random suffix."""
_LEFT = re.compile(rf"\.(.+){re.escape(PARTIAL)}[^.]+")
LOCK, OLD = "lock", "old"
"""In a run's temporary folder: the file that it holds locked, and the folder that it replaces."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; rename it to ``path``, or remove it if the block raises.

    First removes the temporary folders that killed runs left next to ``path``, not those of active runs.
    """
    with _temporary_dir(path) as folder:
        # In its own folder, so that the name stays: some writers choose the format by it.
        (folder / "new").mkdir()
        temporary = folder / "new" / path.name
        with interruptible():
            yield temporary
        temporary.replace(path)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces ``path`` when the block ends without an error.

    At every moment the old folder or the new one exists as a whole. If a run was killed between its two
    renames, the next run restores ``path``. It also removes the temporary folders that killed runs left next
    to ``path``, not those of active runs.

    Raises:
        OutputError: see ``replaceable``.
    """
    path = replaceable(path)
    with _temporary_dir(path) as folder:
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
                _restore(folder, path)


def replaceable(path: Path) -> Path:
    """Resolve the symbolic links of ``path`` and check that a new folder can replace it.

    Raises:
        OutputError: it is a file, a mount point, or contains the working folder.
    """
    real = Path(os.path.realpath(path))
    if os.path.lexists(real) and not real.is_dir():
        fault = "a file"
    elif Path.cwd().is_relative_to(real):
        fault = "the working folder of this process, or one above it"
    elif os.path.ismount(real):
        fault = "a folder that a file system is mounted on"
    else:
        return real
    raise OutputError(
        f"{path} cannot be replaced",
        got=f"{real}, {fault}",
        expected="a new folder, or one that can be replaced",
        remedy="write to another folder",
    )


@contextmanager
def _temporary_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``; remove it in the end, or in the next run if killed."""
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
    """Remove the temporary folders of killed runs anywhere below a folder, not those of active runs.

    Restores the folders that a killed run was about to replace.

    Returns:
        The removed folders.
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
    """Remove the temporary folders of killed runs; the caller holds the lock of their parent."""
    left = [folder for folder in folders if folder.is_dir() and not _is_owned(folder)]
    for folder in left:
        name = _LEFT.fullmatch(folder.name)
        if name:
            _restore(folder, folder.with_name(name[1]))
        shutil.rmtree(folder, ignore_errors=True)
    return left


def _restore(folder: Path, path: Path) -> None:
    """Move the old folder of ``path`` back from the temporary folder, unless ``path`` exists."""
    if (folder / OLD).exists():
        # Renamed first, so that a half removed folder is never restored.
        (folder / OLD).rename(folder / "removed" if path.exists() else path)


def _is_owned(folder: Path) -> bool:
    """Return whether the run of a temporary folder is active: its lock ends with its process."""
    try:
        with locked(folder / LOCK, wait=False):
            return False
    except FileNotFoundError:  # the run was killed before it created the lock
        return False
    except BlockingIOError:
        return True
