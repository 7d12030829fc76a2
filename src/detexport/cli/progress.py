"""Progress of long steps, on the standard error stream."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

REPORT_EVERY_S = 15.0


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
