"""File and folder locks between processes of one machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the exclusive lock of a file or a folder.

    Raises:
        BlockingIOError: another process holds it and ``wait`` is False.
    """
    import fcntl  # missing on Windows, which can run artifacts but not write them

    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)
