"""The hinge between export and runtime: a folder that says all that a runtime needs to know."""

from dataclasses import asdict, dataclass, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from detexport.contract import MAX_SIDE, Contract
from detexport.errors import ArtifactError
from detexport.files import read_json, sha256_file, sha256_json, write_json

MANIFEST = "artifact.json"


class Format(StrEnum):
    """What the file is."""

    TORCHSCRIPT = "TorchScript"
    ONNX = "ONNX"
    EXPORTED_PROGRAM = "ExportedProgram"
    AOT_INDUCTOR = "AOTInductor package"
    OPENVINO = "OpenVINO IR"


@dataclass(frozen=True)
class Artifact:
    """A deployable model: the files in its folder and what they promise.

    Args:
        format: what the main file is.
        method: export method or conversion that wrote it (``tracing``, ``onnx``, ``openvino``).
        options: the method's options.
        main_file: the file that a runtime opens, relative to the folder.
        files: every file but the manifest, with its sha256.
        contract: what the graph takes and gives.
        batch: images a call takes: ``"1"``, one tensor in and a tuple of tensors out, or ``"any"``, a list of
            images of different sizes in and a list of tensors by name out; within a call they are padded to
            one size, as the eager model pads its batch.
        graph_end: the contract's: ``"raw"`` (masks as a grid over each box, boxes in px of the graph's image)
            or ``"pasted"`` (all in the frame of the output that is wanted).
        weights_sha256: digest of the weights that were exported.
        config_sha256: digest of the resolved model configuration.
        versions: versions of the packages that shaped the file.
        source_sha256: the artifact that it was converted from, by its name; empty for an export.
        image_sides: the smallest and the largest height and width in px of an image that the graph takes.
    """

    format: Format
    method: str
    options: dict[str, Any]
    main_file: str
    files: dict[str, str]
    contract: Contract
    batch: str
    graph_end: str
    weights_sha256: str
    config_sha256: str
    versions: dict[str, str]
    source_sha256: str = ""
    image_sides: tuple[int, int] = (1, MAX_SIDE)

    @property
    def sha256(self) -> str:
        """The artifact's name by content: a digest of the manifest, which holds every file's digest."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        return {**asdict(self), "format": self.format.value, "contract": self.contract.to_json()}

    def save(self, folder: Path) -> None:
        """Write the manifest into ``folder``."""
        write_json(folder / MANIFEST, self.to_json())


def read_artifact(folder: Path) -> Artifact:
    """Read a folder's manifest without looking at its files.

    Raises:
        ArtifactError: there is no manifest, or it is not one: a field is missing or holds something else.
    """
    try:
        value = read_json(folder / MANIFEST)
        if fault := _fault(value, Artifact, MANIFEST):
            raise ValueError(fault)
        return Artifact(
            **{
                **value,
                "format": Format(value["format"]),
                "contract": Contract.from_json(value["contract"]),
                "image_sides": tuple(value.get("image_sides", (1, MAX_SIDE))),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder} is not an artifact",
            got=f"{type(error).__name__}: {error}",
            expected=f"a folder with a {MANIFEST} as the export writes it",
            remedy="export the model again",
        ) from error


def _fault(value: Any, kind: Any, place: str) -> str:
    """What in a JSON value is not of the kind that a field is annotated with; empty where all is.

    Args:
        value: as ``to_json`` and ``json`` make it: a dataclass is a dict, a tuple a list.
        kind: the annotation.
        place: what the value is called.
    """
    origin, of = get_origin(kind), get_args(kind)
    if origin is UnionType:
        faults = [_fault(value, one, place) for one in of]
        return "" if "" in faults else faults[0]
    parts: list[tuple[Any, Any, str]] = []
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        parts = [(value[name], hints[name], f"{place}.{name}") for name in hints if name in value]
    elif origin is dict and isinstance(value, dict):
        parts = [(item, of[1], f"{place}.{name}") for name, item in value.items()]
    elif origin is tuple and isinstance(value, list) and (... in of or len(value) == len(of)):
        parts = [(item, of[0], f"{place}[{index}]") for index, item in enumerate(value)]
    elif not (kind is Any or (origin is Literal and value in of) or _is_plain(value, kind)):
        return f"{place}: {value!r}"[:200]
    return next(filter(None, (_fault(*part) for part in parts)), "")


def _is_plain(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type that is not made of others."""
    if get_origin(kind) is not None or isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, str if issubclass(kind, StrEnum) else kind)


def verify_files(artifact: Artifact, folder: Path) -> None:
    """Compare every file of an artifact with its digest; some formats hold native code, so this comes first.

    Raises:
        ArtifactError: a file is missing, its bytes are not those that were exported, or the main file has no
            digest.
    """
    if artifact.main_file not in artifact.files:
        raise ArtifactError(
            f"the main file of {folder} has no digest",
            got=artifact.main_file,
            expected=f"one of {', '.join(sorted(artifact.files))}",
            remedy="export the model again; do not edit an artifact's files",
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
