"""Base class of boxes, masks and keypoints."""

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor


class InstanceTensor:
    """Values of the instances of one image in one tensor, a row for each instance.

    Args:
        tensor: (R, ...); a subclass checks the shape.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor: Tensor = tensor

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def to(self, device: torch.device | str) -> Self:
        """Return the values on ``device``."""
        return type(self)(self.tensor.to(device=device))

    def __getitem__(self, item: int | slice | Tensor) -> Self:
        rows = self.tensor[item]
        return type(self)(rows[None] if isinstance(item, int) else rows)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor
