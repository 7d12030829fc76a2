"""``nms_per_class`` in ONNX operators, for both of torch's exporters.

ONNX's NonMaxSuppression supports float32 only, so an offset per class would round the boxes. But it supports
a batch: here each class is one element, padded to the size of the largest class with boxes whose score is
never selected. Time and memory grow with the number of classes times that size, not with the square of the
number of boxes.
"""

import math
from functools import partial
from typing import Any

import onnx
import onnxscript
import torch

from detexport.layers.nms import nms_per_class  # noqa: F401 - defines the translated operator

FILL_SCORE = torch.finfo(torch.float32).min
LEAST_SCORE = -3.4e38
"""Lower bound of selected scores: above ``FILL_SCORE``, below any other."""
OPSET = 18
"""Oldest opset with the operators used here: ScatterElements with a sum."""


def float32_below(value: float) -> float:
    """Return the largest float32 <= ``value``; the same float32 values are above both."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.floor(math.ldexp(mantissa, 24)), exponent - 24)


def write_nms(op: Any, boxes: Any, scores: Any, classes: Any, iou_threshold: float) -> Any:
    """Write the ONNX nodes of ``detexport::nms_per_class``.

    Args:
        op: ONNX operators by name; inputs may be Python numbers and lists.
        boxes: (R, 4).
        scores: (R,).
        classes: (R,) int64.
        iou_threshold: see ``nms_per_class``.

    Returns:
        (K,) int64.
    """
    count = op.Shape(scores)
    num_classes = op.Add(op.ReduceMax(op.Pad(classes, [0, 1]), keepdims=1), [1])
    # Boxes by class; the keys are unique, so that the order of ties in a runtime does not matter.
    position = op.Range(0, op.Squeeze(count, [0]), 1)
    _, order = op.TopK(op.Add(op.Mul(classes, count), position), count, axis=0, largest=0)
    by_class = op.Gather(classes, order)
    sizes = op.ScatterElements(
        op.Expand([0], num_classes), classes, op.Expand([1], count), axis=0, reduction="add"
    )
    largest = op.ReduceMax(op.Pad(sizes, [0, 1], 1), keepdims=1)
    first = op.Sub(op.CumSum(sizes, 0), sizes)
    # The cell of each box in a table of (class, index in the class), and the box of each cell.
    cells = op.Add(op.Mul(by_class, largest), op.Sub(position, op.Gather(first, by_class)))
    empty = op.Expand(count, op.Mul(num_classes, largest))
    box_of_cell = op.ScatterElements(empty, cells, order, axis=0)
    table = op.Reshape(box_of_cell, op.Concat(num_classes, largest, axis=0))
    selected = op.NonMaxSuppression(
        op.Gather(op.Pad(boxes, [0, 0, 1, 0]), table),
        op.Unsqueeze(op.Gather(op.Pad(scores, [0, 1], FILL_SCORE), table), [1]),
        op.Squeeze(largest, [0]),
        float32_below(iou_threshold),
        LEAST_SCORE,
    )
    batch, place = op.Gather(selected, 0, axis=1), op.Gather(selected, 2, axis=1)
    kept = op.Gather(box_of_cell, op.Add(op.Mul(batch, largest), place))
    is_kept = op.ScatterElements(op.Expand([0], count), kept, op.Expand([1], op.Shape(kept)), axis=0)
    kept = op.Squeeze(op.NonZero(is_kept), [0])
    return op.Gather(kept, _descending(op, op.Gather(scores, kept)))


def _descending(op: Any, scores: Any) -> Any:
    """Sort scores (K,) in descending order; ties keep their order, which OpenVINO's TopK does not guarantee.

    OpenVINO stores the square of K in 32 bits: beyond 46,340 scores the order of its ties is undefined.
    """
    count = op.Shape(scores)
    values, order = op.TopK(scores, count, axis=0)
    previous = op.Slice(op.Pad(values, [1, 0], -FILL_SCORE), [0], [-1], [0])
    rank = op.CumSum(op.Cast(op.Not(op.Equal(values, previous)), to=onnx.TensorProto.INT64), 0)
    _, stable = op.TopK(op.Add(op.Mul(rank, count), order), count, axis=0, largest=0)
    return op.Gather(order, stable)


def translate_nms(boxes: Any, scores: Any, classes: Any, iou_threshold: float) -> Any:
    """Translate the operator in an ``ExportedProgram``."""
    return write_nms(onnxscript.opset18, boxes, scores, classes, iou_threshold)


class _TraceNodes:
    """ONNX operators by name; each call adds a node to the graph of a trace."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        return partial(self._add, name)

    def _add(self, name: str, *inputs: Any, **attributes: int | str) -> Any:
        values = [
            one if isinstance(one, torch._C.Value) else self.graph.op("Constant", value_t=torch.tensor(one))
            for one in inputs
        ]
        typed = {f"{key}_{'i' if isinstance(one, int) else 's'}": one for key, one in attributes.items()}
        return self.graph.op(name, *values, outputs=2 if name == "TopK" else 1, **typed)


def _translate_traced(graph: Any, boxes: Any, scores: Any, classes: Any, iou_threshold: Any) -> Any:
    threshold = torch.onnx.symbolic_helper._maybe_get_const(iou_threshold, "f")
    return write_nms(_TraceNodes(graph), boxes, scores, classes, threshold)


torch.onnx.register_custom_op_symbolic("detexport::nms_per_class", _translate_traced, OPSET)
