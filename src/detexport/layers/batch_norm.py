"""Batch normalizations under detectron2's path: those of ``norm``, and two that only extensions use."""

from typing import Any, cast

import torch
import torch.distributed.nn
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers.norm import FrozenBatchNorm2d, LayerNorm, get_norm

__all__ = ["CycleBatchNormList", "FrozenBatchNorm2d", "LayerNorm", "NaiveSyncBatchNorm", "get_norm"]


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization with statistics over the batches of all processes, of any size.

    In evaluation mode and in a single process it is ``torch.nn.BatchNorm2d``.

    Args:
        *args: arguments of ``torch.nn.BatchNorm2d``.
        stats_mode: ``""`` weights the processes equally, ``"N"`` by their numbers of images, which may be 0.
        **kwargs: arguments of ``torch.nn.BatchNorm2d``.
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if stats_mode not in ("", "N"):
            raise ConfigError("unknown stats_mode", got=repr(stats_mode), expected="'' or 'N'")
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not self.training or not distributed or torch.distributed.get_world_size() == 1:
            return super().forward(input)
        if len(input) == 0 and not self._stats_mode:
            raise ValueError("NaiveSyncBatchNorm needs an image in every process; use stats_mode='N'")
        mean, mean_of_squares, share = self._statistics(input)
        variance = mean_of_squares - mean * mean
        with torch.no_grad():
            momentum = (self.momentum or 0.0) * share
            for kept, new in ((self.running_mean, mean), (self.running_var, variance)):
                if kept is not None:
                    kept += momentum * (new - kept)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return input * scale[:, None, None] + shift[:, None, None]

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and mean of squares (C,) over all processes, and 0 if no process has an image."""
        weight = x.new_tensor(float(len(x)) if self._stats_mode else 1.0)
        if len(x):
            local = torch.cat([x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))])
        else:
            local = x.new_zeros(2 * x.shape[1]) + x.sum() * 0
        total = torch.distributed.nn.functional.all_reduce(torch.cat([local * weight, weight[None]]))
        mean, mean_of_squares = (total[:-1] / total[-1].clamp(min=1)).chunk(2)
        return mean, mean_of_squares, total[-1].detach().clamp(max=1)


class CycleBatchNormList(nn.ModuleList):
    """Batch normalizations that take turns, one a call, with one affine transform for all.

    A head that runs on several feature maps in a fixed order thus has separate statistics for each.

    Args:
        length: number of normalizations.
        bn_class: class of each.
        **kwargs: arguments of ``bn_class``; with ``affine=True``, the default, the transform is shared.
    """

    def __init__(self, length: int, bn_class: type[nn.Module] = nn.BatchNorm2d, **kwargs: Any) -> None:
        self._affine = kwargs.pop("affine", True)
        super().__init__([bn_class(**kwargs, affine=False) for _ in range(length)])
        if self._affine:
            channels = cast(nn.BatchNorm2d, self[0]).num_features
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        self._position = 0

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W) by the next normalization."""
        normalized: Tensor = self[self._position](x)
        self._position = (self._position + 1) % len(self)
        if self._affine:
            return normalized * self.weight[:, None, None] + self.bias[:, None, None]
        return normalized

    def extra_repr(self) -> str:
        """Return whether the transform is shared."""
        return f"affine={self._affine}"
