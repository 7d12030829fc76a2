"""OpenVINO on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from detexport.formats.coordinate_operators import OPENVINO as READ_AT
from detexport.formats.openvino_import import no_telemetry
from detexport.runtime.session import checked_inputs, name_outputs, read_of_format
from detexport.system.extras import extra_imports

with extra_imports(), no_telemetry():
    import openvino as ov

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
            ConfigError: there is no such precision.
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
        if self.precision not in TYPES:
            raise ConfigError("unknown precision", got=self.precision, expected=" or ".join(TYPES))
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

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Run the graph on one image; see ``Session``."""
        return self.run(checked_inputs(image, output_size, self.artifact))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, unchecked; see ``Session.run``."""
        found = self.request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        return name_outputs([found[name] for name in self.artifact.contract.output_names], self.artifact)


def find_devices() -> list[str]:
    """Return the names of the devices that artifacts can run on: the CPU, if its plugin is there."""
    return ["cpu"] if "CPU" in ov.Core().available_devices else []


def _keep_coordinates_float32(model: Any) -> None:
    """Make the coordinates at which features are read outputs too; nobody asks for them.

    In 8 bits of bfloat16 a box at 800 px would be rounded to 4 px. OpenVINO leaves in float32 what lies
    between the last layer with weights and an output; a mark on single operators gets lost when it rewrites
    them.
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
    """Inputs of an operator that are coordinates, or made of them.

    Masks are pasted, and heatmaps resized, by products with weights that follow from where a box lies: of two
    values that are computed one is such weights. A layer's own weights are constants.
    """
    if node.get_type_name() != "MatMul":
        return READ_AT.get(node.get_type_name(), ())
    return () if any(_is_constant(node.input_value(port)) for port in (0, 1)) else (0, 1)


def _is_constant(value: Any) -> bool:
    """Whether a value is a constant, as it is stored or converted."""
    node = value.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
