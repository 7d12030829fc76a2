"""Raise an error if a function is traced whose result a trace would record as a constant."""

import torch

from detexport.errors import ExportError


def refuse_tracing(name: str, remedy: str) -> None:
    """Raise ExportError during a trace.

    Raises:
        ExportError: the caller is being traced.
    """
    if torch.jit.is_tracing():
        raise ExportError(
            f"{name} cannot be traced: the trace would record its values for one sample",
            got="torch.jit.trace",
            expected="a call in eager mode",
            remedy=remedy,
        )
