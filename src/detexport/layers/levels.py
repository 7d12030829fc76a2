"""Layers that take the levels of a pyramid together, so that each can have statistics of its own."""

from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.layers.norm import synchronized_batch_norm


class LevelsConv2d(nn.Conv2d):
    """One convolution for all levels."""

    def forward(self, levels: List[Tensor]) -> List[Tensor]:  # type: ignore[override]
        """One (N, C, H, W) a level -> one (N, C', H', W') a level."""
        return [self._conv_forward(x, self.weight, self.bias) for x in levels]


class LevelsReLU(nn.Module):
    """ReLU of every level."""

    def forward(self, levels: List[Tensor]) -> List[Tensor]:
        """One (N, C, H, W) a level, likewise back."""
        return [F.relu(x) for x in levels]


class LevelsBatchNorm(nn.Sequential):
    """Batch normalization with statistics of each level (its children) and one affine transform for all.

    Args:
        norm: ``"BN"`` or ``"SyncBN"``.
        num_levels: levels that come.
        num_features: C.
    """

    def __init__(self, norm: str, num_levels: int, num_features: int) -> None:
        build = nn.BatchNorm2d if norm == "BN" else synchronized_batch_norm
        super().__init__(*(build(num_features, affine=False) for _ in range(num_levels)))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, levels: List[Tensor]) -> List[Tensor]:
        """One (N, C, H, W) a level, likewise back."""
        outputs: List[Tensor] = []
        for level, norm in enumerate(self):
            outputs.append(norm(levels[level]) * self.weight[:, None, None] + self.bias[:, None, None])
        return outputs
