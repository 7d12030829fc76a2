"""What is exported of a model: its ``detect`` behind plain tensors."""

from typing import Any, Dict, List

from torch import Tensor, nn


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
