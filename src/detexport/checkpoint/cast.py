"""Conversion of a checkpoint's tensors to the dtypes of a model, with checks of their values."""

import torch
from torch import Tensor


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def convert(tensor: Tensor, name: str) -> tuple[Tensor, str]:
    """Convert a tensor to the dtype named ``name``.

    Floating-point values are rounded, and must be finite before and after; integers must keep their values.

    Returns:
        the tensor, and the reason why its values are unusable; empty if they are usable.
    """
    dtype: torch.dtype = getattr(torch, name)
    if _kind(tensor.dtype) != _kind(dtype):
        return tensor, f"is {dtype_name(tensor)}, expected {name}"
    converted = tensor.to(dtype)
    if not dtype.is_floating_point:
        changed = tensor.numel() and not torch.equal(converted.to(tensor.dtype), tensor)
        return converted, f"has values out of the range of {name}" if changed else ""
    finite = torch.isfinite(converted)
    if bool(finite.all()):
        return converted, ""
    broken = ~torch.isfinite(tensor.to(torch.float64))
    if bool(broken.any()):
        return converted, f"has {int(broken.sum())} values of {tensor.numel()} that are NaN or infinite"
    return converted, f"has {int((~finite).sum())} values of {tensor.numel()} out of the range of {name}"


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "floating-point"
    if dtype.is_complex:
        return "complex"
    return "bool" if dtype == torch.bool else "integer"
