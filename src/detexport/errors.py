"""Errors that a user can correct, their common message format, and the exit codes.

Each message states what, got, expected and remedy in one printable line. A command prints it without a stack
trace and ends with the exit code of its class.
"""

import os
import reprlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar

from detexport.system.redaction import redact

VERDICT, REQUEST, BROKEN = 1, 2, 3
"""Exit codes: a failed verdict, an invalid request, a failure of the machine or the program. 0 is success."""
TRACEBACK = "DETEXPORT_TRACEBACK"
"""The environment variable that enables the stack trace of an error."""

LONGEST_MESSAGE = 500
CUT = "..."
SEPARATOR = "; "
PARTS = ("what", "got", "expected", "remedy")
LEAST_SHOWN = 80
"""Characters of ``got`` and of ``expected`` that a message always shows."""
LONGEST_SHOWN = 80
"""Most characters of a value's ``repr`` in a message."""
LONGEST_NAME = 100
"""Characters of a misspelt name that are compared with the existing names."""


class DetexportError(Exception):
    """An invalid input, configuration or file, described so that the user can correct it.

    The message is one line of at most ``LONGEST_MESSAGE`` printable characters: in a longer one, the middle
    of ``got`` and ``expected`` is left out.

    Args:
        what: the problem.
        got: the value that was found.
        expected: the values that are valid.
        remedy: what the user can do.
    """

    exit_code: ClassVar[int] = REQUEST

    def __init__(self, what: str, *, got: object = None, expected: object = None, remedy: str = "") -> None:
        own, data = {"what": printable(what.rstrip("."))}, {}
        if got is not None:
            data["got"] = printable(f"got: {_text(got)}")
        if expected is not None:
            data["expected"] = printable(f"expected: {_text(expected)}")
        if remedy:
            own["remedy"] = printable(f"remedy: {remedy}")
        room = LONGEST_MESSAGE - len(SEPARATOR) * (len(own) + len(data) - 1)
        own = _fitted(own, room - sum(min(len(part), LEAST_SHOWN) for part in data.values()))
        parts = own | _fitted(data, room - sum(map(len, own.values())))
        super().__init__(SEPARATOR.join(parts[name] for name in PARTS if name in parts))


def _text(value: object) -> str:
    """Return a value as text, also if it is an integer that Python refuses to convert."""
    try:
        return str(value)
    except ValueError:
        return f"a huge {type(value).__name__}"


def printable(text: str) -> str:
    """Return ``text`` as one line for a terminal: white space is one blank, control characters are escaped.

    A text too long for any message is shortened in the middle.
    """
    return escaped(" ".join(shortened(text, 4 * LONGEST_MESSAGE).split()))


def escaped(text: str) -> str:
    """Return ``text`` with escapes for control characters, which a terminal would obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def shortened(text: str, limit: int) -> str:
    """Return ``text`` in at most ``limit`` characters, without its middle if it is longer."""
    if len(text) <= limit:
        return text
    kept = limit - len(CUT)
    return text[: kept - kept // 2] + CUT + text[len(text) - kept // 2 :]


def _fitted(parts: dict[str, str], room: int) -> dict[str, str]:
    """Shorten the longest parts until all fit into ``room`` characters; keep short ones whole."""
    limit = room
    for left, length in zip(range(len(parts), 0, -1), sorted(map(len, parts.values())), strict=True):
        limit = room // left
        if length > limit:
            break
        room -= length
    else:
        return parts
    return {name: shortened(part, limit) for name, part in parts.items()}


def shown(value: object) -> str:
    """Return a short ``repr`` of an untrusted value, in at most ``LONGEST_SHOWN`` characters."""
    try:
        return shortened(_SHORT.repr(value), LONGEST_SHOWN)
    except Exception:  # repr runs code of the value's class
        return f"a {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = LONGEST_SHOWN


def listed(items: Iterable[object], limit: int = 5) -> str:
    """Return the first of ``items`` and the number of others: ``a, b, c and 7 more``."""
    names = [str(item) for item in items]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def did_you_mean(name: object, options: Iterable[object]) -> str:
    """Return ``did you mean 'x'?`` for the option most similar to a misspelt name; empty if none is similar.

    A name of three letters or more also matches an option that begins with it.
    """
    by_lower = {str(option).lower(): str(option) for option in options}
    lower = str(name)[:LONGEST_NAME].lower()
    longer = [option for option in by_lower if len(lower) > 2 and option.startswith(lower)]
    close = get_close_matches(lower, by_lower, n=1) or longer
    return f"did you mean {by_lower[close[0]]!r}?" if close else ""


class ConfigError(DetexportError):
    """A configuration names something that does not exist, or has an invalid value."""


class MissingKeyError(ConfigError, AttributeError):
    """A configuration has no such key; ``hasattr`` and ``getattr`` with a default take it as an attribute."""


class DivergedError(DetexportError, FloatingPointError):
    """A training diverged: the same settings lead to the same failure."""


class CheckpointError(DetexportError):
    """A checkpoint cannot be read or does not belong to the model."""


class DataError(DetexportError):
    """A data set, an annotation file or an image is invalid or missing."""


class ImageSizeError(DataError):
    """An image has more pixels, or longer sides, than allowed."""


class MissingAnnotationsError(DataError):
    """A data set lacks the annotations that a task metric needs; otherwise it is usable."""


class InputError(DetexportError, ValueError):
    """An input of a model is invalid."""


class ArtifactError(DetexportError):
    """An artifact is incomplete, was changed, or was not exported for the request."""


class ExportError(DetexportError):
    """A model cannot be exported, or its artifact does not compute the same."""

    exit_code = VERDICT


class OutputError(DetexportError):
    """A file or a folder cannot be written at the requested path."""


class DiskError(OutputError):
    """The disk is full or fails while a file is written."""

    exit_code = BROKEN


class OutOfMemoryError(DetexportError, MemoryError):
    """A request needs more memory than there is; a smaller one still works."""

    exit_code = BROKEN


class RuntimeUnavailableError(DetexportError):
    """A runtime, a device or a CPU feature is not available on this machine."""

    exit_code = BROKEN


class UnexpectedError(DetexportError):
    """An unexpected failure: a bug in this program, or in a package that it uses."""

    exit_code = BROKEN

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            "unexpected error, a bug in detexport or in a package that it uses",
            got=f"{type(error).__name__}: {_text(error)}".rstrip(": "),
            remedy=f"set {TRACEBACK}=1 in the environment for the stack trace, and report it",
        )


def fail(error: BaseException) -> int:
    """Print an error as one line on the standard error stream, and return the exit code of its class.

    With ``DETEXPORT_TRACEBACK=1`` in the environment the stack trace comes first.
    """
    if os.environ.get(TRACEBACK, "") not in ("", "0"):
        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    known = error if isinstance(error, DetexportError) else UnexpectedError(error)
    # Again: an error's message may have been extended while it propagated.
    print("error:", shortened(printable(redact(str(known))), LONGEST_MESSAGE), file=sys.stderr)
    return known.exit_code


class MissingPackageError(RuntimeUnavailableError, ModuleNotFoundError):
    """A package that an extra of detexport installs is not installed."""


# Words in the engines' messages for a failed allocation; some engines have no error class for it.
ALLOCATION_FAILURES = (
    "allocate memory",
    "allocation failed",
    "bad_alloc",
    "bad allocation",
    "not enough memory",
    "out of memory",
    "storage size calculation overflowed",
)


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an error of any package says that memory did not suffice."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in ALLOCATION_FAILURES)


@contextmanager
def memory_guard(*sizes: tuple[int, ...]) -> Iterator[None]:
    """Turn every engine's error for a failed allocation into an ``OutOfMemoryError`` with the images' sizes.

    Args:
        *sizes: shape of each image.

    Raises:
        OutOfMemoryError: an allocation failed.
    """
    try:
        yield
    except DetexportError:
        raise
    except Exception as error:
        if not is_allocation_failure(error):
            raise
        raise OutOfMemoryError(
            "there is not enough memory for this",
            got=", ".join(
                [
                    *("image " + " x ".join(map(str, size)) for size in sizes),
                    (str(error).strip() or type(error).__name__).splitlines()[0][:200],
                ]
            ),
            expected="images and outputs that fit into the device's memory",
            remedy="resize images by the contract's rule, pass fewer of them, or ask for a smaller output",
        ) from error
