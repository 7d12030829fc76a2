"""A model repository for the Triton server: the artifact's files, and config.pbtxt from its contract."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from detexport.artifact import Artifact, Format
from detexport.contract import TensorSpec

TYPES = {
    "bool": "TYPE_BOOL",
    "float32": "TYPE_FP32",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
}
BACKENDS = {
    Format.ONNX: ("onnxruntime", "onnxruntime_onnx"),
    Format.OPENVINO: ("openvino", ""),
    Format.TORCHSCRIPT: ("pytorch", "pytorch_libtorch"),
}
"""Backend and, where the backend has several, platform of each format."""


def fault(artifact: Artifact) -> str:
    """Return why Triton cannot run an artifact; empty if it can."""
    if artifact.format not in BACKENDS:
        return f"there is no tested configuration of Triton for the format {artifact.format.value}"
    if artifact.format is Format.TORCHSCRIPT and artifact.batch == "any":
        return (
            "a scripted graph takes a list of images and returns dicts; Triton's backend passes tensors only"
        )
    return ""


def write_repository(artifact: Artifact, folder: Path, name: str, root: Path) -> None:
    """Write a model repository with one model in one version.

    Args:
        artifact: an artifact without ``fault``.
        folder: its files.
        name: the model's name.
        root: the repository, a new folder.
    """
    version = root / name / "1"
    for file in artifact.files:
        (version / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, version / file)
    (root / name / "config.pbtxt").write_text(config(artifact, name), encoding="utf-8")


def config(artifact: Artifact, name: str) -> str:
    """Return a model's configuration in protobuf's text format.

    Letters of the contract's shapes are dynamic sizes (-1). Triton's PyTorch backend finds the tensors of a
    TorchScript file by their position, so there they are ``INPUT__0``, ``OUTPUT__0``; ``parameters`` holds
    the contract's names in this order.
    """
    backend, platform = BACKENDS[artifact.format]
    contract, by_position = artifact.contract, artifact.format is Format.TORCHSCRIPT
    parameters = {
        "artifact_sha256": artifact.sha256,
        "channel_order": contract.channel_order,
        "class_names": json.dumps(contract.class_names, ensure_ascii=False),
        "input_names": json.dumps([spec.name for spec in contract.inputs]),
        "output_names": json.dumps(contract.output_names),
        "resize": json.dumps({"min_size": contract.resize.min_size, "max_size": contract.resize.max_size}),
        "stuff_class_names": json.dumps(contract.stuff_class_names, ensure_ascii=False),
    }
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        *([f"platform: {_quoted(platform)}"] if platform else []),
        f"default_model_filename: {_quoted(artifact.main_file)}",
        "# One image a request; its height and width may differ from request to request.",
        "max_batch_size: 0",
        *_tensors("input", contract.inputs, by_position=by_position),
        *_tensors("output", contract.outputs, by_position=by_position),
        *(
            f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _tensors(kind: str, specs: Iterable[TensorSpec], *, by_position: bool) -> Iterator[str]:
    for index, spec in enumerate(specs):
        dims = ", ".join(str(dim) if isinstance(dim, int) else "-1" for dim in spec.shape)
        yield f"{kind} {{"
        yield f"  # {' '.join(spec.meaning.split())}"
        yield f"  name: {_quoted(f'{kind.upper()}__{index}' if by_position else spec.name)}"
        yield f"  data_type: {TYPES[spec.dtype]}"
        yield f"  dims: [ {dims} ]"
        yield "}"


def _quoted(text: str) -> str:
    """Return a text as a string of protobuf's text format."""
    escapes = {"\\": "\\\\", '"': '\\"'}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\{ord(c):03o}") for c in text) + '"'
