"""Call a function in a process of its own, and raise here what it raises there."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from detexport.errors import DetexportError, OutOfMemoryError


@dataclass(frozen=True)
class Raised:
    """An exception as plain values: one of any package need not survive pickling.

    Args:
        kind: its class if it is one of ours, which can be pickled by name; None for any other.
        text: its message, after its type's name if it is none of ours.
        trace: its stack trace.
    """

    kind: type[DetexportError] | None
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "Raised":
        """Describe an exception that was caught."""
        kind = type(error) if isinstance(error, DetexportError) else None
        text = str(error) if kind else f"{type(error).__name__}: {error}".rstrip(": ")
        return cls(kind, text, "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """Return an exception of the same class and message, or a ``RuntimeError`` that names both."""
        if self.kind is None:
            return RuntimeError(self.text)
        # Without the class's own constructor, which composes a message of other arguments. Of a class that
        # is a MemoryError, too, __new__ is that of MemoryError, which makes no other class.
        return Exception.__new__(self.kind, self.text)


class ChildTracebackError(Exception):
    """The stack trace of another process, as the cause of what is raised in this one."""


def call_in_child(
    function: Callable[..., Any], *arguments: Any, what: str, has_children: bool = False, **options: Any
) -> Any:
    """Return what ``function`` returns in a fresh process; that process ends with this one.

    Args:
        function: with its arguments and what it returns it can be pickled.
        *arguments: of the function.
        what: names the process in errors, such as "the process that validates".
        has_children: whether the function starts such processes itself.
        **options: of the function.

    Raises:
        DetexportError: the function raised it: the same class and message.
        OutOfMemoryError: the process was killed, as the system does where memory runs out.
        RuntimeError: the function raised another exception, which the message names, or the process ended
            in another way.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_answer, args=(theirs, function, arguments, options), daemon=not has_children
    )
    with _without_main():
        process.start()
    theirs.close()
    try:
        result, raised = ours.recv()
        process.join()
    except EOFError:
        process.join()
        raise _ended(what, process.exitcode or 0) from None
    finally:
        process.terminate()
        process.join()
    if raised is not None:
        raise raised.error() from ChildTracebackError(f"\n{raised.trace}")
    return result


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a process that starts in the block from running the caller's script again, as ``spawn`` would."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _ended(what: str, code: int) -> Exception:
    """Return the error of a process that ended without an answer."""
    if code == -signal.SIGKILL:
        return OutOfMemoryError(
            f"{what} was killed",
            got="SIGKILL, which the system sends where memory runs out",
            expected="memory for the runtime and for the largest input",
            remedy="end other programs, give fewer or smaller images, or take a machine with more memory",
        )
    return RuntimeError(
        f"{what} ended " + (f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}")
    )


def _answer(
    connection: Connection, function: Callable[..., Any], arguments: Sequence[Any], options: dict[str, Any]
) -> None:
    """Send what the function returns or raises; end with the process that asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends this one
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        connection.send((function(*arguments, **options), None))
    except Exception as error:
        connection.send((None, Raised.of(error)))


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
