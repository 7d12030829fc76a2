"""Numbers of a checkpoint in the dtype that a model has them in, if they are numbers that it can have."""

import torch
from torch import Tensor


def dtype_name(tensor: Tensor) -> str:
    """The name of a dtype, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def convert(tensor: Tensor, name: str) -> tuple[Tensor, str]:
    """Convert a tensor to the dtype called ``name``.

    Floating-point numbers are rounded, and must be finite before and after; integers must stay what they are.

    Returns:
        the tensor, and why its values cannot be used; empty if they can.
    """
    dtype: torch.dtype = getattr(torch, name)
    if _kind(tensor.dtype) != _kind(dtype):
        return tensor, f"is of {dtype_name(tensor)}, where {name} belongs"
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
