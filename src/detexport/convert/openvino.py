"""ONNX -> OpenVINO IR, and reading and writing IRs for all conversions."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detexport.artifact import Artifact, Format
from detexport.convert.conversion import Conversion, Samples
from detexport.errors import ExportError
from detexport.formats.coordinate_operators import OPENVINO as READ_AT
from detexport.formats.openvino_constants import is_constant
from detexport.formats.openvino_import import no_telemetry
from detexport.system.extras import extra_imports

with extra_imports(), no_telemetry():
    import openvino as ov

MAIN_FILE = "model.xml"

WEIGHTED = {
    "Convolution",
    "ConvolutionBackpropData",
    "DeformableConvolution",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
    "MatMul",
}
"""Operators that multiply by trained weights."""


@dataclass(frozen=True)
class OpenVino(Conversion):
    """Conversion of an ONNX model to an IR; dynamic shapes stay dynamic.

    Args:
        compress_to_fp16: store the weights in half precision: half the size, but other outputs.
    """

    compress_to_fp16: bool

    name = "openvino"
    source_format = Format.ONNX
    format = Format.OPENVINO
    main_file = MAIN_FILE
    packages = ("openvino",)

    def prepare(self, source: Artifact, model_file: Path, samples: Samples) -> Callable[[Path], None]:
        """Read the ONNX model; see ``Conversion.prepare``. The samples are not read."""
        model = read_model(model_file)
        return lambda folder: save_ir(model, folder / MAIN_FILE, compress_to_fp16=self.compress_to_fp16)


def read_model(path: Path) -> Any:
    """Read an ONNX model or an IR, and give its operators the same names in every process.

    Raises:
        ExportError: OpenVINO cannot read it.
    """
    try:
        model = ov.Core().read_model(path)
    except RuntimeError as error:
        raise ExportError(
            f"{path} cannot be read by OpenVINO {ov.__version__}",
            got=str(error).strip().splitlines()[-1],
            expected="a model whose operators it supports",
            remedy="declare the pair unsupported, or export the model with other operators",
        ) from error
    name_nodes(model)
    return model


def name_nodes(model: Any) -> None:
    """Name the operators without an own name; OpenVINO's numbers depend on the process's other models."""
    for index, node in enumerate(model.get_ordered_ops()):
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name == node.get_name() or re.fullmatch(rf"{kind}\.\d+", name):
            node.set_friendly_name(f"{kind}.{index}")


def save_ir(model: Any, path: Path, *, compress_to_fp16: bool = False) -> None:
    """Write an IR: ``path`` and its weights in the same folder."""
    name_nodes(model)
    ov.save_model(model, path, compress_to_fp16=compress_to_fp16)
    tree = ElementTree.parse(path)
    _strip(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def last_weighted(model: Any) -> set[str]:
    """Return the names of the prediction layers.

    A prediction layer is the last one with weights before an output of the model, or before the coordinates
    at which features are read.
    """
    starts = [*_sampled_at(model), *(result.input_value(0).get_node() for result in model.get_results())]
    return {node.get_friendly_name() for node in _before(starts) if has_weights(node)}


def has_weights(node: Any) -> bool:
    """Return whether a node multiplies by weights; a product of two activations, as in decoding, has none."""
    return node.get_type_name() in WEIGHTED and any(
        is_constant(value.get_node()) for value in node.input_values()
    )


def _sampled_at(model: Any) -> Iterator[Any]:
    """Yield the nodes that compute the coordinates at which features are read."""
    for node in model.get_ordered_ops():
        for port in READ_AT.get(node.get_type_name(), ()):
            yield node.input_value(port).get_node()


def _before(starts: Iterable[Any]) -> Iterator[Any]:
    """Yield the nodes and their predecessors, up to and including the nearest layers with weights."""
    seen: set[str] = set()
    left = list(starts)
    while left:
        node = left.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        yield node
        kind = node.get_type_name()
        # A shape does not depend on the precision.
        if kind not in READ_AT and kind != "ShapeOf" and not has_weights(node):
            left += [value.get_node() for value in node.input_values()]


def _strip(tree: Any) -> None:
    """Remove the tools' versions and options from an IR; the artifact's manifest has them."""
    net = tree.getroot()
    for info in net.findall("rt_info"):
        net.remove(info)
