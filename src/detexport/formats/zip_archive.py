"""Zip archives of torch whose bytes depend on their content alone."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

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
