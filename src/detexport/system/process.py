"""Signals and standard streams of a process; for the command line and the stages."""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from detexport.system.redaction import redact

ENDING = tuple(
    getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM") if hasattr(signal, name)
)
"""Signals that ask a process to end."""
GRACE_S = 10.0
"""Time after a signal during which others are ignored: a closing terminal sends several."""


class _Signals:
    """State of the signal handling: the pending signal, and whether signals may end the process now."""

    shields = 0
    pending = 0
    ended_at = -GRACE_S

    @classmethod
    def receive(cls, number: int, _frame: Any) -> None:
        """End the process by ``SystemExit``, so that partial output is removed."""
        if time.monotonic() - cls.ended_at < GRACE_S:
            return
        if cls.shields:
            cls.pending = number
            return
        cls.pending, cls.ended_at = 0, time.monotonic()
        name = signal.Signals(number).name
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"error: ended by {name}; no part of a result is left behind\n".encode())
        sys.exit(128 + number)


@contextmanager
def shielded() -> Iterator[None]:
    """Defer signals that would end the process to the end of this block.

    Has an effect only after ``end_on_signals`` and in the main thread.
    """
    before, _Signals.shields = _Signals.shields, 1
    try:
        yield
    finally:
        _Signals.shields = before
    _end_if_pending()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals end the process in this block, inside a ``shielded`` one."""
    before, _Signals.shields = _Signals.shields, 0
    try:
        _end_if_pending()
        yield
    finally:
        _Signals.shields = before


def _end_if_pending() -> None:
    if _Signals.pending and not _Signals.shields:
        _Signals.receive(_Signals.pending, None)


def end_on_signals() -> None:
    """Make signals that ask this process to end raise ``SystemExit``, so that partial output is removed.

    The exit code follows the shell's convention, 128 + the signal's number. A signal that the parent process
    ignores (``nohup``) stays ignored.
    """
    _open_standard_files()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _Signals.receive)


def _open_standard_files() -> None:
    """Reopen closed standard streams: otherwise a file that is opened later would receive what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # so that a write fails
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w"))


@contextmanager
def redacted_output() -> Iterator[None]:
    """Redact the secrets in everything that Python code prints in this block."""
    streams = sys.stdout, sys.stderr
    redacted = RedactedStream(sys.stdout), RedactedStream(sys.stderr)
    sys.stdout, sys.stderr = redacted
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in redacted:
            stream.flush()


class RedactedStream:
    """A text stream that redacts secrets.

    Args:
        stream: receives whole lines, or at a flush the text so far.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._waiting = stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text's whole lines; keep the rest until its line ends."""
        self._waiting += text
        end = max(self._waiting.rfind("\n"), self._waiting.rfind("\r")) + 1
        whole, self._waiting = self._waiting[:end], self._waiting[end:]
        if whole:
            self._stream.write(redact(whole))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several strings."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write the unfinished line, and flush the stream."""
        waiting, self._waiting = self._waiting, ""
        if waiting:
            self._stream.write(redact(waiting))
        self._stream.flush()
