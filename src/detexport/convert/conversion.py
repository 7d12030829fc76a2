"""Base class of the conversions: they read an artifact, and write another folder by one rename."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from detexport.artifact import Artifact, Format, read_artifact, verify_files
from detexport.errors import ExportError
from detexport.system.atomic import atomic_dir
from detexport.system.digests import sha256_file
from detexport.system.files import output_errors


class Samples(Protocol):
    """Calibration images, read again at each iteration."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield images, uint8 (3, H, W) in the contract's channel order, resized by its rule."""
        ...


def read_source(folder: Path, expected: Format) -> Artifact:
    """Read the artifact to convert, and check its files.

    Raises:
        ArtifactError: it is not an artifact, or its files were changed.
        ExportError: it has another format.
    """
    artifact = read_artifact(folder)
    if artifact.format is not expected:
        raise ExportError(
            f"{folder} cannot be converted",
            got=artifact.format.value,
            expected=expected.value,
            remedy="set the artifact's source to one of that format",
        )
    verify_files(artifact, folder)
    return artifact


class Conversion:
    """Base class of the conversions: read the source, fill a folder, and rename it to ``save_dir``.

    A conversion is a subclass and a frozen dataclass of its options. It implements ``prepare``, and ``check``
    if its options or the machine can be unsuitable.
    """

    name: ClassVar[str]
    """The conversion's name."""
    source_format: ClassVar[Format]
    """Format of the source."""
    format: ClassVar[Format]
    """Format of the main file."""
    main_file: ClassVar[str]
    """The file that a runtime opens, relative to the folder."""
    packages: ClassVar[tuple[str, ...]]
    """Packages that it needs, whose versions determine the files."""

    def check(self) -> None:
        """Check the options, and that this machine can convert.

        Raises:
            ExportError: it cannot.
        """

    def prepare(self, source: Artifact, model_file: Path, samples: Samples) -> Callable[[Path], None]:
        """Read the model; return a function that writes the files, with ``main_file``, into a folder.

        Args:
            source: the artifact that is converted.
            model_file: its main file.
            samples: see ``Conversion.convert``.

        Raises:
            ExportError: it cannot be converted.
        """
        raise NotImplementedError

    def convert(self, source_dir: Path, samples: Samples, save_dir: Path) -> Artifact:
        """Convert the artifact in ``source_dir`` and write the result into ``save_dir``, whole or not at all.

        Args:
            source_dir: folder of the artifact to convert.
            samples: calibration images; a conversion that needs none does not read them.
            save_dir: folder of the new artifact; replaced if it exists.

        Raises:
            ArtifactError: the source is not an artifact, or was changed.
            ExportError: it has another format, or cannot be converted.
        """
        self.check()
        source = read_source(source_dir, self.source_format)
        write = self.prepare(source, source_dir / source.main_file, samples)
        with output_errors(save_dir), atomic_dir(save_dir) as folder:
            write(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            artifact = replace(
                source,
                format=self.format,
                method=self.name,
                options=asdict(self),  # type: ignore[call-overload]  # a subclass is a dataclass
                main_file=self.main_file,
                files={path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
                versions={**source.versions, **{package: version(package) for package in self.packages}},
                source_sha256=source.sha256,
            )
            artifact.save(folder)
        return artifact
