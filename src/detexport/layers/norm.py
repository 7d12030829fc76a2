"""Normalization layers by their configuration names."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError

GROUPS = 32
"""Number of groups of a group normalization; the same in every published configuration."""


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization with fixed statistics and a fixed affine transform.

    A new layer is the identity: its variance is ``1 - eps``.
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

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace the batch normalizations in ``module``, in place, by frozen ones with their statistics.

        Returns:
            ``module``, or its frozen counterpart if it is a batch normalization itself.
        """
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            frozen = cls(module.num_features, module.eps)
            frozen.load_state_dict(module.state_dict(), strict=False)
            return frozen.to(next(module.buffers()).device)
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module


class GroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm`` that also accepts groups of one value, as in coarse levels of tiny images.

    torch's own refuses them by a check of the size, which would end up in the graph, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(nn.Module):
    """Layer normalization over the channels of each pixel (Ba et al. 2016) of (N, C, H, W)."""

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        centred = x - x.mean(dim=1, keepdim=True)
        variance = (centred * centred).mean(dim=1, keepdim=True)
        return (
            centred / torch.sqrt(variance + self.eps) * self.weight[:, None, None] + self.bias[:, None, None]
        )


def synchronized_batch_norm(num_features: int, affine: bool = True) -> nn.Module:
    """Return batch normalization with statistics over the batches of all processes.

    For a single process this is ``torch.nn.BatchNorm2d``, which can be exported and has the same names in its
    state dict. The process group must be initialized before the model is built.
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
    # detectron2's naiveSyncBN weights processes equally, naiveSyncBN_N by images, torch's SyncBatchNorm by
    # pixels. They agree if all batches have one size.
    "SyncBN": synchronized_batch_norm,
    "naiveSyncBN": synchronized_batch_norm,
    "naiveSyncBN_N": synchronized_batch_norm,
    "nnSyncBN": synchronized_batch_norm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Return the normalization of ``out_channels`` named ``norm``, or built by it; None for an empty name.

    Raises:
        ConfigError: the name is unknown, or the groups do not divide the channels.
    """
    if not norm:
        return None
    if not isinstance(norm, str):
        return norm(out_channels)
    if norm not in NORMS:
        raise ConfigError(
            "unknown normalization",
            got=f"NORM: {norm!r}",
            expected=f"'' or one of {', '.join(sorted(NORMS))}",
            remedy="choose one of these",
        )
    if norm == "GN" and out_channels % GROUPS:
        raise ConfigError(
            "a group normalization does not fit its layer",
            got=f"NORM: GN over {out_channels} channels",
            expected=f"a multiple of {GROUPS} channels",
        )
    return NORMS[norm](out_channels)
