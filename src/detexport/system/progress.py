"""Progress of long steps: a workflow reports its steps, and the caller decides what is shown."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

REPORT_EVERY_S = 15.0
Step = Callable[[str], AbstractContextManager[Any]]
"""Reports a step of a long work: called with its name, entered while it runs."""


def silent(_: str) -> AbstractContextManager[Any]:
    """Report nothing."""
    return nullcontext()


def say(text: str = "") -> None:
    """Print a line to the standard error; the standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print that a step begins, its running time every ``REPORT_EVERY_S``, and how long it took."""
    say(f"{what} ...")
    start, done = time.monotonic(), threading.Event()

    def report() -> None:
        while not done.wait(REPORT_EVERY_S):
            say(f"{what} ... {time.monotonic() - start:.0f} s")

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        done.set()
    say(f"{what}: {time.monotonic() - start:.1f} s")


def step_if(shown: bool | None) -> Step:
    """Return ``step`` or ``silent``.

    Args:
        shown: whether steps are printed; None prints them if the standard error is a terminal.
    """
    return step if (sys.stderr.isatty() if shown is None else shown) else silent
