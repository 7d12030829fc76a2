"""Errors that a user can mend.

Each says what, got, expected and remedy in one message. A stage prints it without a stack trace; everything
else that is raised is a fault of ours and keeps its trace.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def listed(items: Iterable[object], limit: int = 5) -> str:
    """Join items for a message, at most ``limit`` of them: "a, b, c and 7 more"."""
    texts = [str(item) for item in items]
    more = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {more} more" if more > 0 else "")


class DetexportError(Exception):
    """A wrong input, configuration or file, described so that its owner can mend it."""

    def __init__(self, what: str, *, got: object = None, expected: object = None, remedy: str = "") -> None:
        parts = [what.rstrip(".")]
        if got is not None:
            parts.append(f"got: {got}")
        if expected is not None:
            parts.append(f"expected: {expected}")
        if remedy:
            parts.append(f"remedy: {remedy}")
        super().__init__("; ".join(parts))


class ConfigError(DetexportError):
    """A configuration names something that does not exist or does not fit."""


class CheckpointError(DetexportError):
    """A checkpoint cannot be read or does not belong to the model."""


class DataError(DetexportError):
    """A data set, an annotation file or an image is not what was asked for."""


class InputError(DetexportError, ValueError):
    """What a model is given is not what it takes."""


class OutOfMemoryError(DetexportError, MemoryError):
    """What is asked for needs more memory than there is; smaller things still work."""


class ArtifactError(DetexportError):
    """An artifact is incomplete, was changed, or is asked for what it was not exported for."""


class ExportError(DetexportError):
    """A model cannot be exported as it is."""


class OutputError(DetexportError):
    """A file or a folder cannot be written."""


class RuntimeUnavailableError(DetexportError):
    """A runtime, or the device that it was asked for, is not on this machine."""


# How engines say, each in its own words and some in an error of no own type, that an allocation failed.
ALLOCATION_FAILURES = (
    "allocate memory",
    "allocation failed",
    "bad_alloc",
    "bad allocation",
    "not enough memory",
    "out of memory",
    "storage size calculation overflowed",
)


@contextmanager
def memory_guard(*sizes: tuple[int, ...]) -> Iterator[None]:
    """Say clearly that memory did not suffice for images of these sizes, whatever the engine raises.

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
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(words in text for words in ALLOCATION_FAILURES):
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
            remedy="resize them by the contract's rule, give fewer at once, or ask for a smaller output",
        ) from error
