"""Layers over all levels of a feature pyramid, so that each level can have its own statistics."""

from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers.norm import GROUPS, GroupNorm, LayerNorm, synchronized_batch_norm


class LevelsConv2d(nn.Conv2d):
    """A convolution shared by all levels."""

    def forward(self, levels: List[Tensor]) -> List[Tensor]:  # type: ignore[override]
        """Convolve the (N, C, H, W) map of each level into (N, C', H', W')."""
        return [self._conv_forward(x, self.weight, self.bias) for x in levels]


class LevelsReLU(nn.Module):
    """ReLU on each level."""

    def forward(self, levels: List[Tensor]) -> List[Tensor]:
        """Apply ReLU to the (N, C, H, W) map of each level."""
        return [F.relu(x) for x in levels]


class LevelsBatchNorm(nn.Sequential):
    """Batch normalization with statistics per level (the children) and one affine transform for all levels.

    Args:
        norm: ``"BN"`` or ``"SyncBN"``.
        num_levels: number of levels.
        num_features: C.
    """

    def __init__(self, norm: str, num_levels: int, num_features: int) -> None:
        build = nn.BatchNorm2d if norm == "BN" else synchronized_batch_norm
        super().__init__(*(build(num_features, affine=False) for _ in range(num_levels)))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, levels: List[Tensor]) -> List[Tensor]:
        """Normalize the (N, C, H, W) map of each level."""
        outputs: List[Tensor] = []
        for level, norm in enumerate(self):
            outputs.append(norm(levels[level]) * self.weight[:, None, None] + self.bias[:, None, None])
        return outputs


class LevelsGroupNorm(GroupNorm):
    """Group normalization of each level."""

    def forward(self, levels: List[Tensor]) -> List[Tensor]:  # type: ignore[override]
        """Normalize the (N, C, H, W) map of each level."""
        return [torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps) for x in levels]


class LevelsLayerNorm(LayerNorm):
    """Layer normalization over the channels of each pixel of each level."""

    def forward(self, levels: List[Tensor]) -> List[Tensor]:  # type: ignore[override]
        """Normalize the (N, C, H, W) map of each level."""
        return [self.normalize(x) for x in levels]


def levels_norm(norm: str, num_levels: int, num_features: int) -> nn.Module | None:
    """Return the normalization ``norm`` of all levels; None for an empty name.

    Batch normalization has statistics for each level.

    Raises:
        ConfigError: the name is unknown.
    """
    if not norm:
        return None
    if norm in ("BN", "SyncBN"):
        return LevelsBatchNorm(norm, num_levels, num_features)
    if norm == "GN" and num_features % GROUPS == 0:
        return LevelsGroupNorm(GROUPS, num_features)
    if norm == "LN":
        return LevelsLayerNorm(num_features)
    raise ConfigError(
        "unsupported normalization of a head over several levels",
        got=f"{norm!r} over {num_features} channels",
        expected=f"'', BN, SyncBN, LN, or GN over a multiple of {GROUPS} channels",
        remedy="choose another normalization of the head",
    )
