"""Layers and functions of torch under the names and with the defaults that detectron2's extensions use."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import interpolate

from detexport.layers import conv

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Linear",
    "cat",
    "cross_entropy",
    "empty_input_loss_func_wrapper",
    "interpolate",
    "move_device_like",
    "nonzero_tuple",
    "shapes_to_tensor",
]

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear


class Conv2d(conv.Conv2d):
    """``torch.nn.Conv2d``, then ``norm``, then ``activation``.

    As in torch, the convolution has a bias unless ``bias=False``.

    Args:
        *args: positional arguments of ``torch.nn.Conv2d``.
        norm: normalization of the output; a child module named ``norm``.
        activation: called with the normalized output.
        **kwargs: keyword arguments of ``torch.nn.Conv2d``.
    """

    def __init__(
        self,
        *args: Any,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("bias", True)
        super().__init__(*args, norm=norm, **kwargs)
        # TorchScript calls a function or a module, but does not compare a function with None.
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        # Written out: TorchScript does not compile super().forward.
        x = self._conv_forward(x, self.weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate tensors; return a single tensor itself, without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Return the indices of the nonzero elements of ``x`` along each dimension, as index of a tensor."""
    return torch.nonzero(x, as_tuple=True)


def empty_input_loss_func_wrapper(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the loss function with a mean of 0, with a gradient, over no element."""

    def wrapped(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs: Any) -> Tensor:
        if target.numel() == 0 and reduction == "mean":
            return input.sum() * 0.0
        return loss_func(input, target, reduction=reduction, **kwargs)

    return wrapped


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)
"""``torch.nn.functional.cross_entropy`` whose mean over no element is 0."""


def shapes_to_tensor(x: Sequence[int | Tensor], device: torch.device | None = None) -> Tensor:
    """Return sizes as an int64 tensor (len(x),); in a trace they stay symbolic.

    Args:
        x: whole numbers, or in a trace scalar tensors.
        device: of the result.
    """
    if any(isinstance(size, Tensor) for size in x):
        return torch.stack([torch.as_tensor(size, dtype=torch.int64, device=device) for size in x])
    return torch.tensor(list(x), dtype=torch.int64, device=device)


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """Return ``src`` on the device of ``dst``; a trace does not record the device's name."""
    if torch.jit.is_tracing():
        return src.type_as(dst.new_empty(0, dtype=src.dtype))
    return src.to(dst.device)
