"""ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.errors import ArtifactError, RuntimeUnavailableError
from detexport.runtime.session import checked_inputs, name_outputs, read_verified

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    raise RuntimeUnavailableError(
        "ONNX Runtime is not installed", remedy="pip install 'detexport[onnx]'"
    ) from error

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime with one execution provider.

    Args:
        threads: threads of one operator; 0 lets ONNX Runtime take every core.
    """

    threads: int = 0

    def open(self, artifact_dir: Path, device: str = "cpu") -> "OnnxSession":
        """Load an artifact after its files' digests were checked.

        Raises:
            ArtifactError: not an ONNX artifact, one that was changed, or one that this ONNX Runtime refuses.
            RuntimeUnavailableError: the device is not there (ONNX Runtime would take the CPU in silence).
        """
        provider, provider_options = _provider(device)
        artifact = read_verified(artifact_dir, Format.ONNX)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        path = artifact_dir / artifact.main_file
        try:
            session = ort.InferenceSession(
                path, options, providers=[provider], provider_options=[provider_options]
            )
        except Exception as error:  # onnxruntime's errors have no base of their own
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


@dataclass(frozen=True)
class OnnxSession:
    """A loaded ONNX model; see ``Session``."""

    artifact: Artifact
    device: str
    session: Any

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Run the graph on one image; see ``Session``."""
        return self.run(checked_inputs(image, output_size, self.artifact))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, unchecked; see ``Session.run``."""
        feed = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        names = list(self.artifact.contract.output_names)
        return name_outputs(self.session.run(names, feed), self.artifact)


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """The execution provider of a device, and its options."""
    kind, _, index = device.partition(":")
    provider = PROVIDERS.get(kind, "")
    if provider not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot run on '{device}'",
            got=", ".join(ort.get_available_providers()),
            expected=provider or f"one of {', '.join(PROVIDERS)}",
            remedy="choose 'cpu', or install the build of ONNX Runtime that has it (onnxruntime-gpu)",
        )
    return provider, {"device_id": index} if index else {}
