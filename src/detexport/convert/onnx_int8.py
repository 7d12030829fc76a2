"""ONNX -> ONNX that computes in 8 bits, by ONNX Runtime's static quantization."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.contract import Contract
from detexport.convert.calibration import CalibrationSet
from detexport.convert.conversion import ConversionTemplate, Samples
from detexport.errors import ConfigError, ExportError
from detexport.formats.coordinate_operators import ONNX as READ_AT
from detexport.processing.preprocess import graph_inputs
from detexport.system.extras import extra_imports

with extra_imports():
    import onnx
    from onnxruntime import quantization

MAIN_FILE = "model.onnx"

INT8 = ("Conv", "Gemm", "MatMul")
"""Operators that multiply by trained weights and that ONNX Runtime computes in 8 bits."""

WEIGHTED = (*INT8, "ConvTranspose", "DeformConv")
"""Operators that multiply by trained weights."""


@dataclass(frozen=True)
class OnnxInt8(ConversionTemplate):
    """Layers with weights take 8 bits (QDQ), everything between and after them stays in float32.

    What decodes boxes, suppresses and pastes has ranges of hundreds of px and is left as it is, and so are
    the layers that predict: an error of theirs is an error of the result. Ranges of activations are those
    that were seen, with a zero point; those of weights are symmetric.

    Args:
        samples: number of images to calibrate on.
        per_channel: a scale for each output channel of the weights, instead of one for all.
        reduce_range: weights of 7 bits, for processors whose products of 8 bits saturate (x86 without VNNI).
        float_nodes: names of nodes that stay in float32 too.
    """

    samples: int = 100
    per_channel: bool = True
    reduce_range: bool = False
    float_nodes: tuple[str, ...] = ()

    name = "onnx_int8"
    source_format = Format.ONNX
    format = Format.ONNX
    main_file = MAIN_FILE
    packages = ("onnx", "onnxruntime")

    def prepare(self, source: Artifact, model_file: Path, samples: Samples) -> Callable[[Path], None]:
        """See ``ConversionTemplate.prepare``.

        Raises:
            ConfigError: the model has no node of a name that is to stay in float.
            ExportError: there are no samples, or the model has no layer to quantize.
        """
        images = CalibrationSet(samples, self.samples)
        graph = onnx.load(model_file).graph
        unknown = set(self.float_nodes) - {node.name for node in graph.node}
        if unknown:
            raise ConfigError(
                f"{model_file} has no such nodes",
                got=f"float_nodes: {', '.join(sorted(unknown))}",
                expected="names of its nodes, as Netron shows them",
                remedy="correct them, or leave them out",
            )
        names = quantizable(graph) - set(self.float_nodes)
        if not names:
            raise ExportError(f"{model_file} has no layer to quantize", expected=", ".join(INT8))
        return lambda folder: self._quantize(
            model_file, names, _Reader(images, source.contract), folder / MAIN_FILE
        )

    def _quantize(self, model_file: Path, names: set[str], reader: "_Reader", path: Path) -> None:
        with _quiet():
            quantization.quantize_static(
                model_file,
                path,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                nodes_to_quantize=sorted(names),
                op_types_to_quantize=list(INT8),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )


class _Reader(quantization.CalibrationDataReader):
    """Images as ONNX Runtime asks for them: one after another, then None."""

    def __init__(self, images: CalibrationSet, contract: Contract) -> None:
        self.feeds = (graph_inputs(contract, image) for image in images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantizable(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that multiply by weights in 8 bits, those that predict excepted.

    Between a node that predicts and the graph's outputs, or the coordinates at which features are read, is no
    other one with weights.
    """
    weights = {tensor.name for tensor in graph.initializer}
    # The product of two activations, as in decoding, has no weights.
    weighted = {
        node.name for node in graph.node if node.op_type in WEIGHTED and not weights.isdisjoint(node.input)
    }
    producer = {name: node for node in graph.node for name in node.output}
    sampled = [
        node.input[port] for node in graph.node for port in READ_AT.get(node.op_type, ()) if node.input[port]
    ]
    last: set[str] = set()
    seen: set[str] = set()
    left = [*sampled, *(value.name for value in graph.output)]
    while left:
        name = left.pop()
        if name in seen or name not in producer:
            continue
        seen.add(name)
        node = producer[name]
        if node.name in weighted:
            last.add(node.name)
        # A shape is the same in every precision.
        elif node.op_type not in READ_AT and node.op_type != "Shape":
            left += node.input
    return {node.name for node in graph.node if node.op_type in INT8 and node.name in weighted} - last


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice to pre-process from the screen: shapes are free here, and BN is folded."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
