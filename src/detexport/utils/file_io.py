"""Files and folders by path or URL."""

import shutil
from pathlib import Path
from typing import IO, Any

from detexport.checkpoint.download import fetch


class _PathManager:
    """Functions of files; a URL of a checkpoint is downloaded by ``get_local_path``."""

    def open(self, path: str | Path, mode: str = "r", **kwargs: Any) -> IO[Any]:
        """Open a file, or read what ``get_local_path`` finds."""
        target = path if any(letter in mode for letter in "wax+") else self.get_local_path(path)
        return open(target, mode, **kwargs)

    def get_local_path(self, path: str | Path, **kwargs: Any) -> str:
        """Return a path of the file in the file system; a URL is downloaded first."""
        return str(fetch(str(path))) if "://" in str(path) else str(path)

    def exists(self, path: str | Path) -> bool:
        """Return whether the file or folder exists."""
        return Path(path).exists()

    def isfile(self, path: str | Path) -> bool:
        """Return whether the path is a file."""
        return Path(path).is_file()

    def isdir(self, path: str | Path) -> bool:
        """Return whether the path is a folder."""
        return Path(path).is_dir()

    def ls(self, path: str | Path) -> list[str]:
        """Return the names in a folder."""
        return sorted(entry.name for entry in Path(path).iterdir())

    def mkdirs(self, path: str | Path) -> None:
        """Create a folder and those above it."""
        Path(path).mkdir(parents=True, exist_ok=True)

    def rm(self, path: str | Path) -> None:
        """Remove a file."""
        Path(path).unlink()

    def copy(self, src_path: str | Path, dst_path: str | Path, overwrite: bool = False) -> bool:
        """Copy a file; return whether it was copied."""
        if Path(dst_path).exists() and not overwrite:
            return False
        shutil.copyfile(self.get_local_path(src_path), dst_path)
        return True


PathManager = _PathManager()
