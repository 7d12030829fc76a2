"""ONNX -> int8 ONNX, by ONNX Runtime's static quantization."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.contract import Contract
from detexport.convert.calibration import CalibrationSet
from detexport.convert.conversion import Conversion, Samples
from detexport.errors import ConfigError, ExportError
from detexport.formats.coordinate_operators import ONNX as READ_AT
from detexport.processing.preprocess import graph_inputs
from detexport.system.extras import extra_imports

with extra_imports():
    import onnx
    from onnxruntime import quantization

MAIN_FILE = "model.onnx"

INT8 = ("Conv", "Gemm", "MatMul")
"""Operators that multiply by trained weights and that ONNX Runtime computes in int8."""

WEIGHTED = (*INT8, "ConvTranspose", "DeformConv")
"""Operators that multiply by trained weights."""


@dataclass(frozen=True)
class OnnxInt8(Conversion):
    """Quantization of the layers with weights to int8 (QDQ); all other operators stay in float32.

    Box decoding, NMS and mask pasting have ranges of hundreds of px. The prediction layers stay in float32
    too: their error is an error of the output. Activation ranges are the observed minimum and maximum, with a
    zero point; weight ranges are symmetric.

    Args:
        samples: number of calibration images.
        per_channel: one scale per output channel of the weights, instead of one for all.
        reduce_range: weights of 7 bits, for CPUs whose 8-bit products saturate (x86 without VNNI).
        float_nodes: names of further nodes that stay in float32.
    """

    samples: int
    per_channel: bool
    reduce_range: bool
    float_nodes: tuple[str, ...]

    name = "onnx_int8"
    source_format = Format.ONNX
    format = Format.ONNX
    main_file = MAIN_FILE
    packages = ("onnx", "onnxruntime")

    def prepare(self, source: Artifact, model_file: Path, samples: Samples) -> Callable[[Path], None]:
        """Choose the layers to quantize; see ``Conversion.prepare``.

        Raises:
            ConfigError: the model lacks a node of ``float_nodes``.
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
                remedy="correct or remove them",
            )
        names = quantizable(graph) - set(self.float_nodes)
        if not names:
            raise ExportError(
                f"{model_file} has no layer to quantize",
                got="no such node outside of float_nodes",
                expected=", ".join(INT8),
                remedy="remove names from float_nodes, or choose a float target",
            )
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
    """The images for ONNX Runtime's calibration: one feed after another, then None."""

    def __init__(self, images: CalibrationSet, contract: Contract) -> None:
        self.feeds = (graph_inputs(contract, image) for image in images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantizable(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes to quantize: those with weights, except the prediction layers.

    A prediction layer is the last node with weights before an output of the graph, or before the coordinates
    at which features are read.
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
        # A shape does not depend on the precision.
        elif node.op_type not in READ_AT and node.op_type != "Shape":
            left += node.input
    return {node.name for node in graph.node if node.op_type in INT8 and node.name in weighted} - last


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress ONNX Runtime's advice to pre-process: shapes are dynamic here, and BN is folded already."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
