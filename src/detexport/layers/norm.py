"""Normalization layers by their configuration names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError

GROUPS = 32
"""Groups of a group normalization in every published configuration, whatever the width."""


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization by fixed statistics and a fixed affine transform.

    An unfilled layer is the identity: its variance starts at ``1 - eps``.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class GroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm`` that also takes a group of one value, the coarse levels of a tiny image.

    torch's own refuses it by a test on the size, which would end up in the graph, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def get_norm(norm: str, num_features: int) -> nn.Module | None:
    """The normalization layer named ``norm``; none for an empty name.

    Raises:
        ConfigError: the name is not known, or the groups do not divide the channels.
    """
    if not norm:
        return None
    kinds = {
        "BN": lambda: nn.BatchNorm2d(num_features),
        "FrozenBN": lambda: FrozenBatchNorm2d(num_features),
        "GN": lambda: GroupNorm(GROUPS, num_features),
    }
    if norm not in kinds:
        raise ConfigError(
            "unknown normalization",
            got=f"NORM: {norm!r}",
            expected=f"'' or one of {', '.join(sorted(kinds))}",
            remedy="choose one of these; where only inference is wanted, SyncBN's weights fit BN",
        )
    if norm == "GN" and num_features % GROUPS:
        raise ConfigError(
            "a group normalization does not fit its layer",
            got=f"NORM: GN over {num_features} channels",
            expected=f"a multiple of {GROUPS} channels",
        )
    return kinds[norm]()
