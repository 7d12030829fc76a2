"""Artifacts: a folder with an exported model and the manifest that a runtime reads."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from detexport.contract import MAX_SIDE, Contract
from detexport.errors import ArtifactError, escaped, listed, shown
from detexport.formats.onnx_external_data import external_files
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import read_json, write_json
from detexport.system.json_values import decode

MANIFEST = "artifact.json"
MAX_MANIFEST_BYTES = 4 << 20
SHOWN_FILES = 3
"""Most file names in a message."""
UNCHANGED = "as exported"
"""State of a file whose digest matches the manifest."""


class Format(StrEnum):
    """The format of an artifact's main file."""

    TORCHSCRIPT = "TorchScript"
    ONNX = "ONNX"
    EXPORTED_PROGRAM = "ExportedProgram"
    AOT_INDUCTOR = "AOTInductor package"
    OPENVINO = "OpenVINO IR"


@dataclass(frozen=True)
class Provenance:
    """Digests of the model that an artifact is exported from.

    Args:
        weights_sha256: digest of the weights' file.
        config_sha256: digest of the resolved model configuration.
    """

    weights_sha256: str
    config_sha256: str


@dataclass(frozen=True)
class Artifact:
    """A deployable model: the manifest of a folder of files.

    Args:
        format: format of the main file.
        method: export method or conversion that wrote it (``tracing``, ``onnx``, ``openvino``).
        options: the method's options.
        main_file: the file that a runtime opens, relative to the folder.
        files: every file but the manifest, with its sha256; the folder holds nothing else.
        contract: the graph's inputs and outputs, and its pre- and post-processing.
        batch: the batch size: ``"1"``, one tensor in and a tuple of tensors out, or ``"any"``, a list of
            images of different sizes in and a list of dicts of tensors out; a call pads its images to one
            size, as the eager model does.
        graph_end: that of the contract: ``"raw"`` (masks as a grid over each box, boxes in px of the graph's
            input image) or ``"pasted"`` (post-processing included, all in the frame of the output).
        weights_sha256: digest of the exported weights.
        config_sha256: digest of the resolved model configuration.
        versions: versions of the packages that determine the file.
        source_sha256: digest of the artifact that it was converted from; empty for an export.
        image_sides: smallest and largest height and width in px of the graph's input images.
    """

    format: Format
    method: str
    options: dict[str, Any]
    main_file: str
    files: dict[str, str]
    contract: Contract
    batch: Literal["1", "any"]
    graph_end: Literal["raw", "pasted"]
    weights_sha256: str
    config_sha256: str
    versions: dict[str, str]
    source_sha256: str = ""
    image_sides: tuple[int, int] = (1, MAX_SIDE)

    @property
    def sha256(self) -> str:
        """The artifact's digest: that of the manifest, which holds every file's digest."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        return {**asdict(self), "format": self.format.value, "contract": self.contract.to_json()}

    def size_bytes(self, folder: Path) -> int:
        """Return the size of the files in ``folder``, without the manifest."""
        return sum((folder / file).stat().st_size for file in self.files)

    def save(self, folder: Path) -> None:
        """Write the manifest into ``folder``."""
        write_json(folder / MANIFEST, self.to_json())


def read_artifact(folder: Path) -> Artifact:
    """Read a folder's manifest without checking its files; see ``read_verified``.

    Raises:
        ArtifactError: the manifest is missing or invalid: a field is missing, unknown or of another type,
            two contradict each other, or a file's path leads out of the folder.
    """
    try:
        value = read_json(folder / MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
        artifact: Artifact = decode(value, Artifact, MANIFEST)
        if fault := _fault(artifact):
            raise ValueError(f"{MANIFEST}.{fault}")
        return artifact
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder} is not an artifact",
            got=f"{type(error).__name__}: {error}",
            expected=f"a folder with {MANIFEST}, as the export writes it",
            remedy="export the model again",
        ) from error


def read_verified(folder: Path) -> Artifact:
    """Read a folder's manifest and compare the folder with it.

    Raises:
        ArtifactError: see ``read_artifact`` and ``verify_files``.
    """
    artifact = read_artifact(folder)
    verify_files(artifact, folder)
    return artifact


def _fault(artifact: Artifact) -> str:
    """Name the field that contradicts another one or leads out of the folder; empty if none does."""
    for name, digest in artifact.files.items():
        if fault := _path_fault(name):
            return f"files: {shown(name)}: {fault}"
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            return f"files.{name}: {shown(digest)}, expected a sha256 of 64 hex digits"
    if artifact.main_file not in artifact.files:
        names = _some(artifact.files)
        return f"main_file: {shown(artifact.main_file)} has no digest, expected one of {names}"
    needed = _needed_files(artifact)
    if missing := [name for name in needed if name not in artifact.files]:
        return f"files: {missing[0]} has no digest; {artifact.format.value} needs it"
    if fault := artifact.contract.fault():
        return f"contract.{fault}"
    if artifact.graph_end != artifact.contract.graph_end:
        return f"graph_end: {artifact.graph_end}, but the contract's inputs are those of another end"
    smallest, largest = artifact.image_sides
    if not 0 < smallest <= largest <= MAX_SIDE:
        return f"image_sides: {smallest}, {largest}, expected 1 to {MAX_SIDE} px, the smaller first"
    return ""


def _path_fault(name: str) -> str:
    """Return why a file's name in a manifest is not that of a file in its folder; empty if it is."""
    if not name.isprintable() or "\\" in name or ":" in name:
        return "a character that file names may not have: a control character, \\ or :"
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        return "a path that leads out of the folder, or not the shortest one"
    return "the manifest itself" if name == MANIFEST else ""


def _needed_files(artifact: Artifact) -> tuple[str, ...]:
    """Return the files that a runtime opens; for an IR, OpenVINO also opens the file of its weights."""
    if artifact.format is Format.OPENVINO:
        main = PurePosixPath(artifact.main_file)
        return (main.with_suffix(".xml").as_posix(), main.with_suffix(".bin").as_posix())
    return (artifact.main_file,)


def verify_files(artifact: Artifact, folder: Path) -> None:
    """Compare a folder with its manifest; call it before loading, since some formats hold native code.

    Raises:
        ArtifactError: a file is missing or was changed, the folder holds anything that the manifest does not
            list, or an ONNX model refers to such a file.
    """
    if fault := _fault(artifact):
        raise ArtifactError(f"{folder} has an invalid manifest", got=fault, remedy="export the model again")
    if extra := unlisted(artifact, folder):
        raise ArtifactError(
            f"{folder} holds files that its manifest does not list",
            got=_some(extra),
            expected=f"only {MANIFEST} and {_some(artifact.files)}, which are regular files",
            remedy="remove them, or export the model again into an empty folder",
        )
    for name, expected in artifact.files.items():
        path = folder / name
        got = sha256_file(path) if path.is_file() else "no such file"
        if got != expected:
            raise ArtifactError(
                f"{path} is not the file that was exported",
                got=got,
                expected=f"sha256 {expected}",
                remedy="export the model again; do not edit an artifact's files",
            )
    if external := _unlisted_data(artifact, folder):
        raise ArtifactError(
            f"{folder / artifact.main_file} reads files that its manifest does not list",
            got=f"external data in {_some(external)}",
            expected="all weights in the model, or in files of its folder with a digest in the manifest",
            remedy="export the model again; do not edit an artifact's files",
        )


def file_states(artifact: Artifact, folder: Path) -> dict[str, str]:
    """Describe each file of a folder: ``UNCHANGED``, changed, missing or not in the manifest.

    Raises:
        ArtifactError: the folder cannot be read.
    """
    states = {name: _state(folder / name, sha256) for name, sha256 in artifact.files.items()}
    extra = unlisted(artifact, folder)
    if not extra and set(states.values()) <= {UNCHANGED}:
        extra = _unlisted_data(artifact, folder)
    return states | dict.fromkeys(extra, "not in the manifest")


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    return UNCHANGED if sha256_file(path) == sha256 else "changed"


def unlisted(artifact: Artifact, folder: Path) -> list[str]:
    """Return the names of a folder's files, folders and links that its manifest does not list.

    Raises:
        ArtifactError: the folder cannot be read.
    """
    listed = {MANIFEST, *artifact.files}
    parents = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    try:
        return list(_walk(folder, "", listed, parents))
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read", got=error, remedy="check its permissions") from error


def _unlisted_data(artifact: Artifact, folder: Path) -> list[str]:
    """Return the locations of an ONNX model's external data that the manifest does not list.

    Raises:
        ArtifactError: the file is not an ONNX model.
    """
    if artifact.format is not Format.ONNX:
        return []
    main = folder / artifact.main_file
    try:
        locations = external_files(main)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{main} is not an ONNX model", got=error, remedy="export the model again"
        ) from error
    beside = PurePosixPath(artifact.main_file).parent
    return sorted(
        name for name in locations if _path_fault(name) or (beside / name).as_posix() not in artifact.files
    )


def _walk(folder: Path, below: str, listed: set[str], parents: set[str]) -> Iterator[str]:
    """Yield the unlisted names below a folder; follow no link, enter no unlisted folder."""
    with os.scandir(folder / below) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{below}{entry.name}"
            if entry.is_symlink():
                yield f"{name}, a symbolic link"
            elif entry.is_dir(follow_symlinks=False):
                if name in parents:
                    yield from _walk(folder, f"{name}/", listed, parents)
                else:
                    yield f"{name}/"
            elif not (name in listed and entry.is_file(follow_symlinks=False)):
                yield name


def _some(names: Iterable[str]) -> str:
    """Return the first names in order, and the number of others."""
    return listed(map(escaped, sorted(names)), SHOWN_FILES)
