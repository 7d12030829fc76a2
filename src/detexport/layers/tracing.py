"""Refusal of functions whose loops over values a trace would record as constants."""

import torch

from detexport.errors import ExportError


def refuse_tracing(name: str, remedy: str) -> None:
    """Check that a function is not being traced.

    Raises:
        ExportError: it is.
    """
    if torch.jit.is_tracing():
        raise ExportError(
            f"a trace would keep the values of its sample in {name}",
            got="torch.jit.trace",
            expected="a call in eager mode",
            remedy=remedy,
        )
