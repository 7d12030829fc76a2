"""List, read and write the files of a local folder or of a bucket."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast
from uuid import uuid4

from detexport.errors import BROKEN, ConfigError, DataError, DetexportError, OutputError
from detexport.formats.image_files import SUFFIXES
from detexport.system.extras import extra_imports
from detexport.system.files import is_url

with extra_imports():
    import fsspec
    import pyarrow
    from pyarrow import fs

PARTIAL = ".partial"
"""Suffix of the file that is written and then renamed; its name begins with a dot, which readers skip."""


class FetchError(DetexportError):
    """A file could not be fetched now: the network, the bucket or the disk failed."""

    exit_code = BROKEN


@dataclass(frozen=True)
class Location:
    """A folder, by its path or by a URL that pyarrow or fsspec supports, such as ``s3://bucket/images``.

    Can be pickled: each process opens the file system again, with the credentials of its environment.

    Args:
        name: an absolute path, or the URL.
    """

    name: str

    @classmethod
    def of(cls, text: str) -> "Location":
        """Return the location of a path, which may be relative, or of a URL."""
        return cls(text if is_url(text) else str(Path(text).absolute()))

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            return cast(tuple[Any, str], fs.FileSystem.from_uri(self.name))
        except pyarrow.ArrowInvalid:
            pass  # a scheme that pyarrow does not support
        except OSError as error:
            raise _unusable(self.name, error) from error
        try:
            filesystem, path = fsspec.core.url_to_fs(self.name)
        except (ImportError, ValueError) as error:
            raise _unusable(self.name, error) from error
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path

    def path(self, name: str) -> str:
        """Return the path of a file in the file system."""
        _, root = self._opened
        return f"{root.rstrip('/')}/{name}"

    def images(self) -> list[str]:
        """Return the paths of the images in the folder and in its subfolders, relative to it and sorted.

        Raises:
            DataError: the folder does not exist, cannot be listed, or has no image.
        """
        names = [name for name in self.files() if Path(name).suffix.lower() in SUFFIXES]
        if not names:
            raise DataError(
                f"there is no image in {self.name}",
                got="no image file",
                expected=f"a folder or bucket with files {', '.join(SUFFIXES)}",
                remedy="correct the location",
            )
        return names

    def files(self, below: str = "", *, missing: bool = False) -> list[str]:
        """Return the paths of the files below a subfolder, relative to the location and sorted.

        Args:
            below: the subfolder.
            missing: return no files if the folder does not exist, instead of raising DataError.

        Raises:
            DataError: the folder cannot be listed.
        """
        filesystem, root = self._opened
        root = root.rstrip("/")
        folder = f"{root}/{below}" if below else root
        try:
            found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=missing))
        except OSError as error:
            raise DataError(
                f"{self.name} cannot be listed",
                got=error,
                expected="a folder, or a bucket that this machine may read",
                remedy="correct the location or the credentials",
            ) from error
        files = [one.path for one in found if one.type == fs.FileType.File]
        return sorted(file[len(root) + 1 :] for file in files)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            DataError: it does not exist or may not be read.
            FetchError: it cannot be read now.
        """
        filesystem, _ = self._opened
        try:
            with filesystem.open_input_stream(self.path(name)) as stream:
                return cast(bytes, stream.read())
        except (FileNotFoundError, PermissionError) as error:
            raise DataError(
                f"{name} cannot be read",
                got=error,
                expected="an image file",
                remedy="check that it exists and may be read",
            ) from error
        except OSError as error:
            raise FetchError(
                f"{name} could not be fetched from {self.name}",
                got=error,
                expected="a network, a bucket and a disk that work",
                remedy="run the command again: it continues",
            ) from error

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Yield the file opened by pyarrow for random access."""
        filesystem, _ = self._opened
        with filesystem.open_input_file(self.path(name)) as file:
            yield file

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file atomically: by a rename in a local folder, as one object in a bucket.

        Two processes may write it at the same time, such as a killed run's that is not gone yet: the last one
        wins.

        Raises:
            OutputError: it cannot be written.
        """
        filesystem, _ = self._opened
        path = self.path(name)
        folder, _, file = path.rpartition("/")
        is_local = isinstance(filesystem, fs.LocalFileSystem)
        temporary = f"{folder}/.{file}.{uuid4().hex}{PARTIAL}" if is_local else path
        try:
            filesystem.create_dir(folder, recursive=True)
            stream = filesystem.open_output_stream(temporary)
            try:
                with stream:
                    write(stream)
            except BaseException:
                with suppress(OSError):  # closing the stream kept what was written
                    filesystem.delete_file(temporary)
                raise
            if is_local:
                filesystem.move(temporary, path)
        except OSError as error:
            raise OutputError(
                f"cannot write {name} in {self.name}",
                got=error,
                expected="a writable folder or bucket",
                remedy="make room, correct the credentials, or write elsewhere",
            ) from error

    def remove_partial(self, below: str = "") -> None:
        """Remove the incomplete files that killed processes left below a subfolder."""
        filesystem, _ = self._opened
        for name in self.files(below, missing=True):
            if name.endswith(PARTIAL) and Path(name).name.startswith("."):
                with suppress(OSError):
                    filesystem.delete_file(self.path(name))


def _unusable(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        "the location cannot be opened",
        got=f"{name}: {error}",
        expected="a path, or a URL such as s3://bucket/folder or gs://bucket/folder",
        remedy="correct it, or install the package that the scheme needs",
    )
