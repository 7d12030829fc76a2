"""Image files as people name them: paths, folders, patterns."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from detexport.errors import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_images(names: Iterable[str]) -> list[Path]:
    """Return the files that ``names`` stand for, each once.

    Args:
        names: files, folders, whose images are meant, and patterns with ``*``.

    Raises:
        DataError: a name stands for no image.
    """
    found: dict[Path, None] = {}
    for name in names:
        files = _files(name)
        if not files:
            raise DataError(
                "there is no such image",
                got=repr(name[:200]),
                expected=f"a file, a folder with {', '.join(SUFFIXES)}, or a pattern such as 'images/*.png'",
                remedy="correct the path",
            )
        found |= dict.fromkeys(files)
    return list(found)


def _files(name: str) -> list[Path]:
    # os.path answers for names that no file system takes, at which pathlib raises.
    if os.path.isfile(name):
        return [Path(name)]
    if os.path.isdir(name):
        return list_images(Path(name))
    return [Path(file) for file in sorted(glob.glob(name, recursive=True)) if os.path.isfile(file)]


def list_images(folder: Path) -> list[Path]:
    """Return the images in a folder, sorted by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir())
