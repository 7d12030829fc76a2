"""Locks of files and folders between processes of one machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
