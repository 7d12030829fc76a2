"""Kept measurements of an interrupted validation, which the next run does not repeat."""

import json
import platform
import shutil
import types
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from detexport.errors import OutputError
from detexport.outputs import Outputs, pack, unpack
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.locks import locked

LINES = "measured.jsonl"
LOCK = "lock"
"""The file that a process locks while it measures; the writer of a reference locks the folder."""
_SUFFIX = ".progress.partial"

Measurement = TypeVar("Measurement")


@dataclass(frozen=True)
class Nothing:
    """The empty measurement of an image of which outputs alone are kept."""


class Progress:
    """Measurements in a folder, each written at once; a finished validation removes the folder.

    A measurement is one line of JSON; an incomplete line of a killed process is not read.

    Args:
        folder: its path. It must not be an output of a DVC stage, since DVC removes those before it runs the
            stage. None keeps nothing.
        key: digest of all that a measurement depends on; measurements of another key are removed.
        job: name of the job, for ``remove_abandoned``.
    """

    def __init__(self, folder: Path | None = None, key: str = "", job: str = "") -> None:
        self.folder = folder
        self.header = {"key": key, "job": job}
        self.kept: dict[str, dict[str, Any]] = {}
        self._at_work = ExitStack()

    def __enter__(self) -> Self:
        """Lock the folder, and read the kept measurements.

        Raises:
            OutputError: another process measures in this folder.
        """
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._at_work.enter_context(_alone_in(self.folder))
            header, *lines = _whole_lines(self.folder / LINES) or [None]
            if header == self.header:
                self.kept = {line["name"]: line for line in lines}
            self._rewrite(self.folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the folder if the block ended normally or nothing was measured."""
        with self._at_work:
            if self.folder is not None and (kind is None or not self.kept):
                shutil.rmtree(self.folder, ignore_errors=True)

    def _rewrite(self, folder: Path) -> None:
        """Write the complete lines of this key again, and remove all else from the folder."""
        for path in [] if self.kept else list(folder.iterdir()):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        text = "".join(f"{json.dumps(line)}\n" for line in (self.header, *self.kept.values()))
        partial = folder / f"{LINES}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / LINES)

    def __contains__(self, name: str) -> bool:
        """Return whether a measurement is kept under a name."""
        return name in self.kept

    def once(self, name: str, kind: type[Measurement], measure: Callable[[], Measurement]) -> Measurement:
        """Return the measurement kept under a name; if there is none, measure and keep it.

        Args:
            name: unique name.
            kind: a dataclass of plain values, see ``from_plain``.
            measure: returns the measurement.
        """
        value, _ = self.once_with_outputs(name, kind, lambda: (measure(), None))
        return value

    def once_with_outputs(
        self, name: str, kind: type[Measurement], measure: Callable[[], tuple[Measurement, Outputs | None]]
    ) -> tuple[Measurement, Outputs | None]:
        """Return and keep a measurement as ``once`` does, with the outputs of an image if there are any."""
        if name in self.kept:
            line = self.kept[name]
            return from_plain(kind, line["value"]), self._read(line["arrays"])
        value, outputs = measure()
        if self.folder is not None:
            assert is_dataclass(value)
            line = {"name": name, "value": asdict(value), "arrays": self._write(outputs)}  # type: ignore[arg-type]
            with (self.folder / LINES).open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
            self.kept[name] = line
        return value, outputs

    def outputs_once(self, name: str, measure: Callable[[], Outputs]) -> Outputs:
        """Return and keep outputs of an image as ``once`` does a measurement."""
        _, outputs = self.once_with_outputs(name, Nothing, lambda: (Nothing(), measure()))
        assert outputs is not None
        return outputs

    def _write(self, outputs: Outputs | None) -> str | None:
        if outputs is None or self.folder is None:
            return None
        name = f"{len(self.kept)}.npz"
        with (self.folder / name).open("wb") as file:
            np.savez(file, allow_pickle=False, **pack(outputs))
        return name

    def _read(self, name: str | None) -> Outputs | None:
        if name is None or self.folder is None:
            return None
        with np.load(self.folder / name) as arrays:
            return unpack(arrays)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    try:
        (folder / LOCK).touch()
        with locked(folder / LOCK, wait=False):
            yield
    except BlockingIOError as error:
        raise OutputError(
            f"another process validates into {folder}",
            got="its lock is held",
            expected="one process at a time",
            remedy="wait for it, or write elsewhere",
        ) from error


def progress_folder(save_to: Path) -> Path:
    """Return the folder of the kept measurements of a validation, next to its report ``save_to``."""
    return save_to.with_name(f".{save_to.stem}{_SUFFIX}")


def remove_abandoned(root: Path, jobs: Container[str]) -> list[Path]:
    """Remove the kept measurements of jobs that are not selected any more, in all subfolders.

    Args:
        root: the folder.
        jobs: names of the selected jobs, whose measurements stay.

    Returns:
        The removed folders; those of running validations stay.
    """
    removed = []
    for folder in sorted(root.rglob(f".*{_SUFFIX}")):
        header = (_whole_lines(folder / LINES) or [None])[0]
        if not isinstance(header, dict) or header.get("job") not in jobs:
            with suppress(OutputError), _alone_in(folder):
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


def validation_key(
    artifact_sha256: str, reference: Path | None, data: Path | None, settings: Mapping[str, Any]
) -> str:
    """Return a digest of what a validation's measurements depend on.

    Args:
        artifact_sha256: digest of the artifact, or of the model that a reference is made with.
        reference: its folder, digested by content. None while it is made.
        data: the data set's folder, digested by names, sizes and times of its files, since it may be large.
        settings: tolerance, runtime and other settings, as JSON values.
    """
    package = Path(__file__).parents[1]
    return sha256_json(
        {
            "artifact": artifact_sha256,
            "reference": _digests(reference, "*") if reference else {},
            "data": _stamps(data) if data else {},
            "settings": dict(settings),
            "code": _digests(package, "*.py"),
            "packages": sorted(f"{one.name} {one.version}" for one in distributions()),
            "python": platform.python_version(),
            "machine": [platform.node(), platform.machine()],
        }
    )


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob(pattern)) if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _stamps(folder: Path) -> dict[str, list[int]]:
    stats = {path: path.stat() for path in sorted(folder.rglob("*"))}
    return {
        path.relative_to(folder).as_posix(): [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()
    }


def _whole_lines(path: Path) -> list[Any]:
    """Return the values of a file's lines before the first incomplete one; empty without a file."""
    values = []
    if path.is_file():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                values.append(json.loads(line) if line.endswith(b"\n") else None)
            except ValueError:
                break
    return values[: values.index(None)] if None in values else values


def from_plain(kind: Any, value: Any) -> Any:
    """Undo ``dataclasses.asdict`` and JSON, by the type hints of the dataclasses.

    Args:
        kind: a dataclass, ``tuple``, ``list`` or ``dict`` of such, an optional one, or a plain type.
        value: the JSON value.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if value is None or kind is Any:
        return value
    if origin in (Union, types.UnionType):
        inner = [one for one in arguments if one is not type(None)]
        # A union of several types, such as that of image ids, has plain ones only.
        return from_plain(inner[0], value) if len(inner) == 1 else value
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(
            **{field.name: from_plain(hints[field.name], value[field.name]) for field in fields(kind)}
        )  # type: ignore[operator]
    if origin is dict:
        return {key: from_plain(arguments[1], one) for key, one in value.items()}
    if origin is list:
        return [from_plain(arguments[0], one) for one in value]
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(from_plain(arguments[0], one) for one in value)
    if origin is tuple:
        return tuple(from_plain(inner, one) for inner, one in zip(arguments, value, strict=True))
    return value
