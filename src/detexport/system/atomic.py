"""Files and folders that are whole or absent: written beside, then renamed."""

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
"""In the name of a folder that a run works in, between the name of what it makes and letters by chance."""
_LEFT = re.compile(rf"\.(.+){re.escape(PARTIAL)}[^.]+")
LOCK, OLD = "lock", "old"
"""In a folder that a run works in: what it has locked while it lives, and what it puts something new for."""


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


def remove_leftovers(root: Path, *, below: bool = True) -> list[Path]:
    """Remove what killed runs left in a folder; what a living run fills stays.

    Args:
        root: the folder.
        below: also in all folders below it.

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
        names[:] = [name for name in names if below and not _LEFT.fullmatch(name)]
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
