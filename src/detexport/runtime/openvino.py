"""OpenVINO as a runtime: IRs on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detexport.artifact import Format
from detexport.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from detexport.formats.coordinate_operators import OPENVINO as READ_AT
from detexport.formats.openvino_constants import is_constant
from detexport.formats.openvino_import import no_telemetry
from detexport.runtime.session import GraphSession, name_outputs, read_of_format
from detexport.system.extras import extra_imports

with extra_imports(), no_telemetry():
    import openvino as ov

TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16}


@dataclass(frozen=True)
class OpenVinoRuntime:
    """OpenVINO's CPU plugin.

    Args:
        threads: threads of one inference; 0 lets OpenVINO use every core.
        precision: the inference precision of floating-point operators. Always set: OpenVINO's default is
            bfloat16 if the CPU supports it.
    """

    threads: int = 0
    precision: Literal["f32", "bf16"] = "f32"

    engine = "OpenVINO"
    packages = ("openvino",)

    def open(self, artifact_dir: Path, device: str = "cpu") -> "OpenVinoSession":
        """Check the digests of an artifact's files and load it.

        Raises:
            ConfigError: the precision is unknown.
            ArtifactError: it is not an OpenVINO artifact, was changed, or cannot be loaded by this OpenVINO.
            RuntimeUnavailableError: the device is not the CPU, or the CPU does not support the precision.
        """
        if device != "cpu":
            raise RuntimeUnavailableError(
                f"OpenVINO cannot run on '{device}'",
                got=", ".join(ov.Core().available_devices),
                expected="'cpu'",
                remedy="choose 'cpu', or a target of another runtime",
            )
        if self.precision not in TYPES:
            raise ConfigError(
                "unknown precision",
                got=self.precision,
                expected=" or ".join(TYPES),
                remedy="correct the option precision",
            )
        artifact = read_of_format(artifact_dir, Format.OPENVINO)
        path = artifact_dir / artifact.main_file
        try:
            model = ov.Core().read_model(path)
            if self.precision != "f32":
                _keep_coordinates_float32(model)
            compiled = ov.Core().compile_model(model, "CPU", self._properties())
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} cannot be loaded by OpenVINO {ov.__version__}",
                got=str(error).strip().splitlines()[-1],
                expected="an IR for its CPU plugin",
                remedy="convert the model again with the installed OpenVINO",
            ) from error
        taken = compiled.get_property("INFERENCE_PRECISION_HINT")
        if taken != TYPES[self.precision]:
            raise RuntimeUnavailableError(
                f"OpenVINO does not compute in {self.precision} on this CPU",
                got=taken,
                expected=self.precision,
                remedy="choose precision f32, or a CPU with bfloat16 (AVX512_BF16, AMX)",
            )
        return OpenVinoSession(artifact, device, compiled.create_infer_request())

    def _properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": TYPES[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        return properties | ({"INFERENCE_NUM_THREADS": self.threads} if self.threads else {})


@dataclass(frozen=True)
class OpenVinoSession(GraphSession):
    """A compiled IR; see ``Session``."""

    request: Any

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, unchecked; see ``Session.run``."""
        found = self.request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        return name_outputs([found[name] for name in self.artifact.contract.output_names], self.artifact)


def find_devices() -> list[str]:
    """Return the names of the devices that artifacts can run on: the CPU, if its plugin is installed."""
    return ["cpu"] if "CPU" in ov.Core().available_devices else []


def _keep_coordinates_float32(model: Any) -> None:
    """Add the coordinates at which features are read as outputs, which nobody reads.

    With the 8 significant bits of bfloat16, a box at 800 px would be rounded to 4 px. OpenVINO keeps the
    operators between the last layer with weights and an output in float32. It loses a mark on a single
    operator when it rewrites the graph.
    """
    coordinates = [
        node.input_value(port)
        for node in model.get_ordered_ops()
        for port in _coordinate_ports(node)
        if node.get_input_element_type(port) == ov.Type.f32
    ]
    for value in dict.fromkeys(coordinates):
        model.add_outputs(value)


def _coordinate_ports(node: Any) -> tuple[int, ...]:
    """Return the inputs of an operator that are coordinates, or computed from them.

    Masks are pasted, and heatmaps resized, by matrix products with interpolation weights that depend on a
    box. So both inputs of a product without a constant count; a layer's own weights are constants.
    """
    if node.get_type_name() != "MatMul":
        return READ_AT.get(node.get_type_name(), ())
    return () if any(is_constant(node.input_value(port).get_node()) for port in (0, 1)) else (0, 1)
