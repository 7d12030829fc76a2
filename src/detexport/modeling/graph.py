"""Graphs for export: a model's ``detect`` on tensors."""

import math
from typing import Any, Dict, List, Tuple

from torch import Tensor, nn

from detexport.errors import ExportError
from detexport.structures.model_output import depth_of

GraphMethods = List[Tuple[nn.Module, str, str]]
"""Triples: a module, a method that detectron2 documents, the tensor method that graphs call instead."""


def replaced_methods(methods: GraphMethods) -> GraphMethods:
    """Return the documented methods that a class overrides without overriding the tensor method."""
    return [one for one in methods if depth_of(one[0], one[1]) < depth_of(one[0], one[2])]


def missing_graph_methods(methods: GraphMethods) -> GraphMethods:
    """Return those of the methods whose module has no method on tensors, or not one of its own."""
    return [one for one in methods if math.isinf(depth_of(one[0], one[2])) or replaced_methods([one])]


def require_graph_methods(methods: GraphMethods) -> None:
    """Check that a graph computes what the documented methods compute.

    Raises:
        ExportError: a class overrides one, but not the method that the graph calls instead.
    """
    for module, documented, method in missing_graph_methods(methods):
        name = type(module).__name__
        raise ExportError(
            f"a graph would leave out what {name}.{documented} does",
            got=f"no {method} of its own",
            expected=f"an override of {method}, which works on tensors alone",
            remedy=f"write {name}.{method}, override the methods that it calls, or trace the model with "
            "TracingAdapter",
        )


class ImageGraph(nn.Module):
    """A graph from one image to its detections, a tuple in the order of the contract."""

    def __init__(self, model: Any, output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.output_names = output_names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of the contract for one image (C, H, W)."""
        fields = self.model.detect([image])[0]
        return tuple(fields[name] for name in self.output_names)


class BatchGraph(nn.Module):
    """A graph from images of different sizes to the detections of each, by field."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the outputs of each image (C, H, W), by the contract's names."""
        return self.model.detect(images)
