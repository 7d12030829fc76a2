"""OpenVINO IR -> IR that computes in 8 bits, by NNCF's post-training quantization."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.contract import Contract
from detexport.convert.calibration import CalibrationSet, ChosenSamples
from detexport.convert.conversion import Samples, read_source, write_converted
from detexport.convert.openvino import MAIN_FILE, has_weights, last_weighted, read_model, save_ir
from detexport.errors import ExportError, RuntimeUnavailableError
from detexport.offline import no_telemetry
from detexport.preprocess import graph_inputs

try:
    with no_telemetry():
        import nncf
        import openvino as ov
except ModuleNotFoundError as error:
    raise RuntimeUnavailableError(
        "NNCF is not installed", remedy="pip install 'detexport[openvino]'"
    ) from error


@dataclass(frozen=True)
class OpenVinoInt8:
    """Layers with weights compute in 8 bits, everything between and after them in float32.

    What decodes boxes, suppresses and pastes has ranges of hundreds of px and is left as it is, and so are
    the layers that predict: an error of theirs is an error of the result.

    Args:
        samples: number of images to calibrate on.
        preset: ``"mixed"`` has ranges of activations with a zero point, ``"performance"`` symmetric ones.
        float_patterns: regular expressions of names of operators that stay in float32 too.
    """

    samples: int = 100
    preset: Literal["mixed", "performance"] = "mixed"
    float_patterns: tuple[str, ...] = ()

    def convert(self, source_dir: Path, samples: Samples, save_dir: Path) -> Artifact:
        """See ``Conversion.convert``.

        Raises:
            ExportError: there are no samples, or the model has no layer to quantize.
        """
        source = read_source(source_dir, Format.OPENVINO)
        model = read_model(source_dir / source.main_file)
        images = _with_detections(CalibrationSet(samples, self.samples), model, source.contract)
        nncf.set_log_level(logging.ERROR)
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images, partial(graph_inputs, source.contract)),
            preset=nncf.QuantizationPreset(self.preset),
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(
                names=sorted(left_in_float(model)), patterns=list(self.float_patterns)
            ),
        )
        _require_finite(quantized)
        return write_converted(
            self,
            source,
            save_dir,
            name="openvino_int8",
            format=Format.OPENVINO,
            main_file=MAIN_FILE,
            packages=("openvino", "nncf"),
            write=lambda folder: save_ir(quantized, folder / MAIN_FILE),
        )


def _with_detections(
    images: CalibrationSet, model: Any, contract: Contract
) -> CalibrationSet | ChosenSamples:
    """The images that reach every layer: where nothing is found, NNCF takes the mean of no value, NaN."""
    if not contract.row_names:
        return images
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": ov.Type.f32})
    input_name, rows = contract.inputs[0].name, contract.row_names[0]
    return images.where(lambda image: len(compiled({input_name: image})[rows]) > 0)


def _require_finite(model: Any) -> None:
    """Refuse ranges and corrected biases that are no numbers.

    Raises:
        ExportError: there are some.
    """
    for node in model.get_ordered_ops():
        for value in node.input_values() if node.get_type_name() in ("Add", "FakeQuantize") else ():
            constant = value.get_node()
            if constant.get_type_name() == "Constant" and not np.isfinite(constant.data).all():
                raise ExportError(
                    f"the quantization of {node.get_friendly_name()} is not finite",
                    got=constant.data.ravel()[:3],
                    expected="ranges and biases that are numbers",
                    remedy="calibrate on other samples, or leave the layer in float: float_patterns",
                )


def left_in_float(model: Any) -> set[str]:
    """Names of the operators that are not quantized: those without weights, and the layers that predict."""
    unweighted = {
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Parameter", "Result") and not has_weights(node)
    }
    return unweighted | last_weighted(model)
