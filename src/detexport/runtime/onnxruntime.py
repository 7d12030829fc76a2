"""ONNX Runtime as a runtime: ONNX models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detexport.artifact import Format
from detexport.errors import ArtifactError, RuntimeUnavailableError
from detexport.runtime.session import GraphSession, name_outputs, read_of_format
from detexport.system.extras import extra_imports

with extra_imports():
    import onnxruntime as ort

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime with one execution provider.

    Args:
        threads: threads of one operator; 0 lets ONNX Runtime use every core.
    """

    threads: int = 0

    engine = "ONNX Runtime"
    packages = ("onnxruntime",)

    def open(self, artifact_dir: Path, device: str = "cpu") -> "OnnxSession":
        """Check the digests of an artifact's files and load it.

        Raises:
            ArtifactError: it is not an ONNX artifact, was changed, or cannot be loaded by this ONNX Runtime.
            RuntimeUnavailableError: the device is missing (ONNX Runtime would silently use the CPU).
        """
        provider, provider_options = _provider(device)
        artifact = read_of_format(artifact_dir, Format.ONNX)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        path = artifact_dir / artifact.main_file
        try:
            session = ort.InferenceSession(
                path, options, providers=[provider], provider_options=[provider_options]
            )
        except Exception as error:  # onnxruntime's errors have no common base class
            raise ArtifactError(
                f"{path} cannot be loaded by ONNX Runtime {ort.__version__}",
                got=str(error).strip().splitlines()[0],
                expected=f"an ONNX model for its '{provider}'",
                remedy="export the model again with an opset_version that this ONNX Runtime supports",
            ) from error
        if session.get_providers()[0] != provider:
            raise RuntimeUnavailableError(
                f"ONNX Runtime fell back from '{device}'",
                got=session.get_providers(),
                expected=provider,
                remedy="install the provider's libraries, or choose 'cpu'",
            )
        return OnnxSession(artifact, device, session)


FLOAT, INT64 = 1, 7  # onnx.TensorProto.DataType
OPERATORS = {"Identity": (FLOAT,), "RoiAlign": (FLOAT, FLOAT, INT64)}
"""Operators to probe, with the types of their inputs: one that every opset has, and one whose kernels lag."""


def latest_opset(oldest: int, *, rois: bool) -> int:
    """Return the latest opset that this ONNX Runtime runs on the CPU; it takes milliseconds.

    Args:
        oldest: an opset that it runs.
        rois: whether the model pools regions, which needs a kernel of RoiAlign.
    """
    operator, latest = "RoiAlign" if rois else "Identity", oldest
    while _runs(operator, latest + 1):
        latest += 1
    return latest


def _runs(operator: str, opset: int) -> bool:
    """Return whether a model of one node of this operator and opset can be loaded."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(_one_node(operator, opset), options, providers=[PROVIDERS["cpu"]])
    except Exception:  # onnxruntime's errors have no common base class
        return False
    return True


def _one_node(operator: str, opset: int) -> bytes:
    """Return an ONNX model of one node, written field by field: https://onnx.ai/onnx/repo-docs/IR.html."""
    names = [f"x{index}".encode() for index in range(len(OPERATORS[operator]))]
    inputs = [_value(name, kind) for name, kind in zip(names, OPERATORS[operator], strict=True)]
    node = b"".join(_message(1, name) for name in names) + _message(2, b"y") + _message(4, operator.encode())
    graph = _message(1, node) + _message(2, b"g") + b"".join(_message(11, value) for value in inputs)
    graph += _message(12, _value(b"y", FLOAT))
    return _number(1, 8) + _message(7, graph) + _message(8, _number(2, opset))


def _value(name: bytes, kind: int) -> bytes:
    """Return a ``ValueInfoProto`` of a tensor of any shape."""
    return _message(1, name) + _message(2, _message(1, _number(1, kind)))


def _message(field: int, payload: bytes) -> bytes:
    """Return a protobuf field that holds fewer than 16384 bytes."""
    return bytes([field << 3 | 2]) + _varint(len(payload)) + payload


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


@dataclass(frozen=True)
class OnnxSession(GraphSession):
    """A loaded ONNX model; see ``Session``."""

    session: Any

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, unchecked; see ``Session.run``."""
        feed = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        names = list(self.artifact.contract.output_names)
        return name_outputs(self.session.run(names, feed), self.artifact)


def find_devices() -> list[str]:
    """Return the kinds of devices that this build of ONNX Runtime has an execution provider for."""
    return [kind for kind, provider in PROVIDERS.items() if provider in ort.get_available_providers()]


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """Return the execution provider of a device, and its options."""
    kind, _, index = device.partition(":")
    provider = PROVIDERS.get(kind, "")
    if provider not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot run on '{device}'",
            got=", ".join(ort.get_available_providers()),
            expected=provider or f"one of {', '.join(PROVIDERS)}",
            remedy="choose 'cpu', or pip uninstall onnxruntime && pip install 'detexport[onnxruntime-gpu]'",
        )
    return provider, {"device_id": index} if index else {}
