"""A function in a process of its own: its result, its errors, and how it may end."""

import os
import signal
import sys
import traceback
from typing import Any

import pytest

from detexport.errors import (
    DetexportError,
    DiskError,
    ExportError,
    MissingPackageError,
    OutOfMemoryError,
    UnexpectedError,
    fail,
)
from detexport.system.child_process import call_in_child


class UnpicklableError(Exception):
    """An exception that no other process can rebuild, as those of some engines."""

    def __init__(self, code: int, handle: Any) -> None:
        super().__init__(f"code {code}")
        self.handle = handle


def unpicklable() -> None:
    raise UnpicklableError(7, sys.stdout)


def ours(kind: type[DetexportError], cause: str) -> None:
    if kind is UnexpectedError:
        raise UnexpectedError(ValueError(cause))
    raise kind("it is wrong", got=cause, expected="another", remedy="mend it")


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_result_comes_back() -> None:
    assert call_in_child(max, 1, 3, what="it") == 3


@pytest.mark.parametrize(
    "kind", [ExportError, DiskError, MissingPackageError, OutOfMemoryError, UnexpectedError]
)
def test_an_error_of_ours_keeps_its_class_and_its_message(kind: type[DetexportError]) -> None:
    with pytest.raises(DetexportError) as here:
        ours(kind, "x")
    with pytest.raises(kind) as there:
        call_in_child(ours, kind, "x", what="it")
    assert type(there.value) is kind
    assert str(there.value) == str(here.value)
    assert there.value.exit_code == here.value.exit_code


def test_an_exception_that_cannot_be_pickled_is_named_with_its_stack_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(RuntimeError, match=r"^UnpicklableError: code 7$") as caught:
        call_in_child(unpicklable, what="it")
    assert "in unpicklable" in "".join(traceback.format_exception(caught.value))
    assert fail(caught.value) == 3
    assert "UnpicklableError: code 7" in capsys.readouterr().err


def test_a_killed_process_is_out_of_memory() -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"the process that validates was killed.*remedy: end"
    ) as caught:
        call_in_child(end_by, signal.SIGKILL, what="the process that validates")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("end", "words"), [((end_by, signal.SIGSEGV), "by SIGSEGV"), ((os._exit, 4), "with exit code 4")]
)
def test_another_end_is_named(end: tuple[Any, int], words: str) -> None:
    with pytest.raises(RuntimeError, match=rf"^it ended {words}$"):
        call_in_child(*end, what="it")
