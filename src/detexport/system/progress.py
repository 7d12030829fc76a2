"""Progress of long steps: a workflow reports its steps, and the caller decides what is shown."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar, overload

from tqdm import tqdm

REPORT_EVERY_S = 15.0
Step = Callable[[str], AbstractContextManager[Any]]
"""Reports a step of a long work: called with its name, entered while it runs."""
T = TypeVar("T")
_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


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


@contextmanager
def showing(shown: bool | None) -> Iterator[Step]:
    """Show or hide the progress of a block: yield what reports its steps, and hide its bars or not.

    Args:
        shown: whether progress is printed; None prints it if the standard error is a terminal.
    """
    shown = sys.stderr.isatty() if shown is None else shown
    token = _HIDDEN.set(not shown)
    try:
        yield step if shown else silent
    finally:
        _HIDDEN.reset(token)


@overload
def progress_bar(iterable: Iterable[T], **options: Any) -> "tqdm[T]": ...
@overload
def progress_bar(*, total: int, **options: Any) -> "tqdm[Any]": ...
def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """Return a bar of tqdm on the standard error, hidden within ``showing(False)``."""
    bar: tqdm[Any] = tqdm(iterable, disable=_HIDDEN.get(), **options)
    return bar
