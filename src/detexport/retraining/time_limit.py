"""A limit of the time that a block of code may take."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detexport.errors import BROKEN, DetexportError

AGAIN_S = 60.0
"""Seconds until the error is raised again, in case that a library caught it."""


class TimeLimitError(DetexportError):
    """The time was up."""

    exit_code = BROKEN


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise an error in the block when the time is up; None is no limit.

    With a limit it works in the main thread only.

    Raises:
        TimeLimitError: the time was up.
    """
    if seconds is None:
        yield
        return

    def end(*_: Any) -> None:
        raise TimeLimitError(
            "the run took too long",
            got=f"more than {seconds:g} s",
            expected="an end within --timeout",
            remedy="run it again: it continues; or allow more time",
        )

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
