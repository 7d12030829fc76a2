"""What an interrupted validation has measured already: it goes on where it stopped."""

import json
import platform
import shutil
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from detexport.outputs import Outputs, pack, unpack
from detexport.system.digests import sha256_file, sha256_json

LINES = "measured.jsonl"

Measurement = TypeVar("Measurement")


@dataclass(frozen=True)
class Nothing:
    """In place of a measurement where outputs are all that is kept."""


class Progress:
    """Measurements in a folder, each written as soon as it is made; a finished validation removes the folder.

    One line of JSON a measurement: what a killed process was about to write is not whole, and is not read.

    Args:
        folder: where they are kept; it must be no output of a DVC stage, since DVC removes those before it
            runs the stage. None keeps nothing.
        key: digest of all that a measurement depends on: what was measured under another one is removed.
    """

    def __init__(self, folder: Path | None = None, key: str = "") -> None:
        self.folder = folder
        self.kept: dict[str, dict[str, Any]] = {}
        if folder is not None:
            header, *lines = _whole_lines(folder / LINES) or [None]
            if header == {"key": key}:
                self.kept = {line["name"]: line for line in lines}
            self._rewrite(folder, [{"key": key}, *self.kept.values()])

    def _rewrite(self, folder: Path, lines: list[dict[str, Any]]) -> None:
        """Leave in the folder the lines that are whole, and nothing of another key."""
        if not self.kept:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        partial = folder / f"{LINES}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / LINES)

    def once(self, name: str, kind: type[Measurement], measure: Callable[[], Measurement]) -> Measurement:
        """The measurement that was kept under this name, or a new one, which is then kept.

        Args:
            name: unique among all.
            kind: a dataclass of plain values, see ``from_plain``.
            measure: makes it.
        """
        value, _ = self.once_with_outputs(name, kind, lambda: (measure(), None))
        return value

    def once_with_outputs(
        self, name: str, kind: type[Measurement], measure: Callable[[], tuple[Measurement, Outputs | None]]
    ) -> tuple[Measurement, Outputs | None]:
        """Likewise, with the outputs of an image where they are to be kept, too."""
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
        """Likewise the outputs of an image alone."""
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

    def __enter__(self) -> Self:
        """Measure in the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the folder, unless the block did not come to its end and something was measured."""
        if self.folder is not None and (kind is None or not self.kept):
            shutil.rmtree(self.folder, ignore_errors=True)


def progress_folder(save_to: Path) -> Path:
    """Where the progress of a validation is kept that writes ``save_to``: beside it."""
    return save_to.with_name(f".{save_to.stem}.progress.partial")


def validation_key(
    artifact_sha256: str, reference: Path | None, data: Path | None, settings: Mapping[str, Any]
) -> str:
    """Digest of what a validation's measurements depend on.

    Args:
        artifact_sha256: the artifact's, or a digest of the model that a reference is made with.
        reference: its folder; its files' bytes count. None while it is made.
        data: the data set's folder; the names, sizes and times of its files do, for it may be large.
        settings: tolerance, runtime and whatever else is set, as JSON values.
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
    """Values of a file's lines up to the first one that is not whole; none where there is no file."""
    values = []
    if path.is_file():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                values.append(json.loads(line) if line.endswith(b"\n") else None)
            except ValueError:
                break
    return values[: values.index(None)] if None in values else values


def from_plain(kind: Any, value: Any) -> Any:
    """Undo ``dataclasses.asdict`` and JSON: dataclasses and tuples become what the type hints say.

    Args:
        kind: a dataclass, ``tuple``, ``list`` or ``dict`` of such, an optional one, or a plain type.
        value: as JSON gave it.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if value is None or kind is Any:
        return value
    if origin in (Union, types.UnionType):
        inner = [one for one in arguments if one is not type(None)]
        # Of several types, such as those of image ids, all are plain.
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
