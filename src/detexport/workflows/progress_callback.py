"""How a workflow reports its progress: the caller decides what is shown."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Step = Callable[[str], AbstractContextManager[Any]]
"""Reports a step of a long work: called with its name, entered while it runs."""


def silent(_: str) -> AbstractContextManager[Any]:
    """Report nothing."""
    return nullcontext()
