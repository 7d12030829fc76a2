"""What is exported of a model: its ``detect`` behind plain tensors."""

from typing import Any, Dict, List

from torch import Tensor, nn

from detexport.errors import ExportError


def require_graph_methods(methods: list[tuple[nn.Module, str]]) -> None:
    """See that a graph would leave nothing out that ``forward`` was written to do.

    Args:
        methods: modules, and the name of the method that a graph calls where people call ``forward``.

    Raises:
        ExportError: a class of its own gives a new ``forward``, and not the method that graphs call.
    """
    for module, method in methods:
        owners = [
            next((place for place, cls in enumerate(type(module).__mro__) if name in vars(cls)), None)
            for name in ("forward", method)
        ]
        if owners[1] is None or (owners[0] is not None and owners[0] < owners[1]):
            raise ExportError(
                f"a graph would leave out what {type(module).__name__}.forward does",
                got=f"no {method} of its own",
                expected=f"{method}, which works on tensors alone: see the class it extends",
                remedy=f"write {type(module).__name__}.{method}, or override the methods that it calls",
            )


class ImageGraph(nn.Module):
    """One image in, its detections out as a tuple in the order of the contract."""

    def __init__(self, model: Any, output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.output_names = output_names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(C, H, W) -> the outputs that the contract names."""
        fields = self.model.detect([image])[0]
        return tuple(fields[name] for name in self.output_names)


class BatchGraph(nn.Module):
    """Images of different sizes in, the detections of each out by field."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Each (C, H, W) -> its outputs by the contract's names."""
        return self.model.detect(images)
