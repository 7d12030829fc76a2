"""Graphs for export: a model's ``detect`` on tensors."""

from typing import Any, Dict, List

from torch import Tensor, nn

from detexport.errors import ExportError


def require_graph_methods(methods: list[tuple[nn.Module, str]]) -> None:
    """Check that no class overrides ``forward`` without the method that the graph calls instead.

    Args:
        methods: modules, each with the name of the method that the graph calls in place of ``forward``.

    Raises:
        ExportError: a class overrides ``forward``, but not that method.
    """
    for module, method in methods:
        owners = [
            next((depth for depth, cls in enumerate(type(module).__mro__) if name in vars(cls)), None)
            for name in ("forward", method)
        ]
        if owners[1] is None or (owners[0] is not None and owners[0] < owners[1]):
            raise ExportError(
                f"a graph would leave out what {type(module).__name__}.forward does",
                got=f"no {method} of its own",
                expected=f"an override of {method}, which works on tensors alone",
                remedy=f"write {type(module).__name__}.{method}, or override the methods that it calls",
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
