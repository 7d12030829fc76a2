"""OpenVINO on the CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.errors import ArtifactError, RuntimeUnavailableError
from detexport.offline import no_telemetry
from detexport.runtime.session import check_image, name_outputs, read_verified

try:
    with no_telemetry():
        import openvino as ov
except ModuleNotFoundError as error:
    raise RuntimeUnavailableError(
        "OpenVINO is not installed", remedy="pip install 'detexport[openvino]'"
    ) from error

TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16}


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO's CPU plugin.

    Args:
        threads: threads of one inference; 0 lets OpenVINO take every core.
        precision: what floating-point operators compute in. Never left to OpenVINO, which takes bfloat16 by
            itself where the processor has it.
    """

    threads: int = 0
    precision: Literal["f32", "bf16"] = "f32"

    def open(self, artifact_dir: Path, device: str = "cpu") -> "OpenVinoSession":
        """Load an artifact after its files' digests were checked.

        Raises:
            ArtifactError: not an OpenVINO artifact, one that was changed, or one that this OpenVINO refuses.
            RuntimeUnavailableError: the device is not the CPU, or the processor lacks the precision.
        """
        if device != "cpu":
            raise RuntimeUnavailableError(
                f"OpenVINO cannot run on '{device}'",
                got=", ".join(ov.Core().available_devices),
                expected="'cpu'",
                remedy="choose 'cpu', or a target of another runtime",
            )
        artifact = read_verified(artifact_dir, Format.OPENVINO)
        path = artifact_dir / artifact.main_file
        try:
            compiled = ov.Core().compile_model(path, "CPU", self._properties())
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} cannot be loaded by OpenVINO {ov.__version__}",
                got=str(error).strip().splitlines()[-1],
                expected="an IR for its CPU plugin",
                remedy="convert the model again with the OpenVINO that is installed",
            ) from error
        taken = compiled.get_property("INFERENCE_PRECISION_HINT")
        if taken != TYPES[self.precision]:
            raise RuntimeUnavailableError(
                f"OpenVINO does not compute in {self.precision} on this processor",
                got=taken,
                expected=self.precision,
                remedy="choose precision f32, or a processor with bfloat16 (AVX512_BF16, AMX)",
            )
        return OpenVinoSession(artifact, device, compiled.create_infer_request())

    def _properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": TYPES[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        return properties | ({"INFERENCE_NUM_THREADS": self.threads} if self.threads else {})


@dataclass(frozen=True)
class OpenVinoSession:
    """A compiled IR; see ``Session``."""

    artifact: Artifact
    device: str
    request: Any

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on one image; see ``Session``."""
        check_image(image, self.artifact)
        contract = self.artifact.contract
        found = self.request.infer({contract.inputs[0].name: np.ascontiguousarray(image)})
        return name_outputs([found[name] for name in contract.output_names], self.artifact)
