"""Normalization layers by their configuration names."""

from collections.abc import Callable

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


class LayerNorm(nn.Module):
    """Normalization over the channels of each pixel (Ba et al. 2016), the channels before the pixels."""

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        centred = x - x.mean(dim=1, keepdim=True)
        variance = (centred * centred).mean(dim=1, keepdim=True)
        return (
            centred / torch.sqrt(variance + self.eps) * self.weight[:, None, None] + self.bias[:, None, None]
        )


def synchronized_batch_norm(num_features: int, affine: bool = True) -> nn.Module:
    """Batch normalization over the batches of all processes.

    A process alone has no other to agree with, so there it is the plain one, which can be exported; the
    state dicts of both have the same names. A process group is joined before the model is built.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        return nn.SyncBatchNorm(num_features, affine=affine)
    return nn.BatchNorm2d(num_features, affine=affine)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda num_features: GroupNorm(GROUPS, num_features),
    "LN": LayerNorm,
    # detectron2's "naive" one weighs each process alike, "_N" by its images, torch's by its pixels: batches
    # of one size agree.
    "SyncBN": synchronized_batch_norm,
    "naiveSyncBN": synchronized_batch_norm,
    "naiveSyncBN_N": synchronized_batch_norm,
    "nnSyncBN": synchronized_batch_norm,
}


def get_norm(norm: str | Callable[[int], nn.Module], num_features: int) -> nn.Module | None:
    """The normalization layer named ``norm``, or what it makes of the channels; none for an empty name.

    Raises:
        ConfigError: the name is not known, or the groups do not divide the channels.
    """
    if not norm:
        return None
    if not isinstance(norm, str):
        return norm(num_features)
    if norm not in NORMS:
        raise ConfigError(
            "unknown normalization",
            got=f"NORM: {norm!r}",
            expected=f"'' or one of {', '.join(sorted(NORMS))}",
            remedy="choose one of these",
        )
    if norm == "GN" and num_features % GROUPS:
        raise ConfigError(
            "a group normalization does not fit its layer",
            got=f"NORM: GN over {num_features} channels",
            expected=f"a multiple of {GROUPS} channels",
        )
    return NORMS[norm](num_features)
