"""Repack torch's zip archives so that their bytes depend on their content alone."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

ARCHIVE_ROOT = "model"
"""The top folder in a repacked archive; torch names it after the file or at random."""


def repack_zip(
    source: Path | IO[bytes],
    target: Path | IO[bytes],
    left_out: tuple[str, ...] = (),
    rename: Callable[[str], str] = str,
) -> None:
    """Copy an archive with fixed timestamps, sorted members and ``ARCHIVE_ROOT`` as its top folder.

    Args:
        source: an archive whose members are not compressed, as torch writes them.
        target: the archive to write.
        left_out: suffixes of the names of members that are dropped.
        rename: returns the new name of each other member, from its name with ``ARCHIVE_ROOT``.
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
