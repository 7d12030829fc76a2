"""OpenVINO IR -> int8 IR, by NNCF's post-training quantization."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.contract import Contract
from detexport.convert.calibration import CalibrationSet, ChosenSamples
from detexport.convert.conversion import Conversion, Samples
from detexport.convert.openvino import MAIN_FILE, has_weights, last_weighted, read_model, save_ir
from detexport.errors import ConfigError, DetexportError, ExportError
from detexport.formats.openvino_import import no_telemetry
from detexport.processing.preprocess import graph_inputs
from detexport.system.extras import extra_imports

with extra_imports(), no_telemetry():
    import nncf
    import openvino as ov


@dataclass(frozen=True)
class OpenVinoInt8(Conversion):
    """Quantization of the layers with weights to int8; all other operators stay in float32.

    Box decoding, NMS and mask pasting have ranges of hundreds of px. The prediction layers stay in float32
    too: their error is an error of the output.

    Args:
        samples: number of calibration images.
        preset: ``"mixed"`` has asymmetric activation ranges (with a zero point), ``"performance"`` symmetric
            ones.
        float_patterns: regular expressions for further operators that stay in float32, matched from the
            beginning of their names.
    """

    samples: int
    preset: Literal["mixed", "performance"]
    float_patterns: tuple[str, ...]

    name = "openvino_int8"
    source_format = Format.OPENVINO
    format = Format.OPENVINO
    main_file = MAIN_FILE
    packages = ("openvino", "nncf")

    def prepare(self, source: Artifact, model_file: Path, samples: Samples) -> Callable[[Path], None]:
        """Quantize the model; see ``Conversion.prepare``.

        Raises:
            ConfigError: the preset is unknown, or a pattern matches no operator.
            ExportError: there are no samples, or NNCF cannot quantize the model.
        """
        model = read_model(model_file)
        self._check_options(model)
        images = _with_detections(CalibrationSet(samples, self.samples), model, source.contract)
        quantized = self._quantize(model, images, source.contract)
        _require_finite(quantized)
        return lambda folder: save_ir(quantized, folder / MAIN_FILE)

    def _check_options(self, model: Any) -> None:
        presets = [preset.value for preset in nncf.QuantizationPreset]
        if self.preset not in presets:
            raise ConfigError(
                "unknown preset",
                got=self.preset,
                expected=" or ".join(presets),
                remedy="correct the option preset",
            )
        names = [node.get_friendly_name() for node in model.get_ordered_ops()]
        for pattern in self.float_patterns:
            try:
                matched = any(map(re.compile(pattern).match, names))
            except re.error as error:
                raise ConfigError(
                    "invalid regular expression",
                    got=f"float_patterns: {pattern}: {error}",
                    expected="regular expressions of Python's module re",
                    remedy="correct the option float_patterns",
                ) from error
            if not matched:
                raise ConfigError(
                    "the model has no such operators",
                    got=f"float_patterns: {pattern}",
                    expected="regular expressions that match its operators' names from the beginning",
                    remedy="take the names from the IR, model.xml",
                )

    def _quantize(self, model: Any, images: CalibrationSet | ChosenSamples, contract: Contract) -> Any:
        nncf.set_log_level(logging.ERROR)
        ignored = nncf.IgnoredScope(names=sorted(left_in_float(model)), patterns=list(self.float_patterns))
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(images, partial(graph_inputs, contract)),
                preset=nncf.QuantizationPreset(self.preset),
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(images),
                ignored_scope=ignored,
            )
        except (DetexportError, MemoryError):
            raise
        except Exception as error:  # NNCF's errors have no common base class
            raise ExportError(
                "NNCF cannot quantize the model",
                got=f"{type(error).__name__}: {' '.join(str(error).split())}",
                expected="a model whose layers it supports",
                remedy="keep the named layers in float: float_patterns, or choose another target",
            ) from error


def _with_detections(
    images: CalibrationSet, model: Any, contract: Contract
) -> CalibrationSet | ChosenSamples:
    """Return the images with detections: on the others, NNCF's mean over a head's empty batch is NaN."""
    if not contract.row_names:
        return images
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": ov.Type.f32})
    rows = contract.row_names[0]
    return images.where(lambda image: len(compiled(graph_inputs(contract, image))[rows]) > 0)


def _require_finite(model: Any) -> None:
    """Check that ranges and corrected biases are finite.

    Raises:
        ExportError: one is not.
    """
    for node in model.get_ordered_ops():
        for value in node.input_values() if node.get_type_name() in ("Add", "FakeQuantize") else ():
            constant = value.get_node()
            if constant.get_type_name() == "Constant" and not np.isfinite(constant.data).all():
                raise ExportError(
                    f"the quantization of {node.get_friendly_name()} is not finite",
                    got=constant.data.ravel()[:3],
                    expected="finite ranges and biases",
                    remedy="calibrate on other samples, or keep the layer in float: float_patterns",
                )


def left_in_float(model: Any) -> set[str]:
    """Return the names of operators that stay in float: those without weights, and the prediction layers."""
    unweighted = {
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Parameter", "Result") and not has_weights(node)
    }
    return unweighted | last_weighted(model)
