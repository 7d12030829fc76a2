"""Retries of functions that run out of a GPU's memory."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def retry_if_cuda_oom(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that repeats a call that ran out of memory: after freeing caches, then on the CPU.

    Args:
        func: a function of tensors; on the CPU it is called with copies of those of its arguments that are on
            a GPU, and its result stays there.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
        logger.info("%s ran out of GPU memory and runs on the CPU", getattr(func, "__qualname__", func))
        return func(*map(_on_cpu, args), **{name: _on_cpu(value) for name, value in kwargs.items()})

    return wrapped


def _on_cpu(value: Any) -> Any:
    on_gpu = isinstance(getattr(value, "device", None), torch.device) and hasattr(value, "to")
    return value.to("cpu") if on_gpu or isinstance(value, Tensor) else value
