"""What a long step says of itself, on the standard error stream."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TELL_EVERY_S = 15.0


def say(text: str = "") -> None:
    """A line for people; the standard output stream is for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say that a step begins, every now and then that it still runs, and how long it took."""
    say(f"{what} ...")
    start, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(TELL_EVERY_S):
            say(f"{what} ... {time.monotonic() - start:.0f} s")

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()
    say(f"{what}: {time.monotonic() - start:.1f} s")
