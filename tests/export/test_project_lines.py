"""The lines of a project's code that stop a recording or whose values it keeps."""

import linecache
import warnings
from typing import Any

import pytest
import torch

import detexport
from detexport.export.project_lines import is_project_file, kept_values, line_of_error, shown_line


def test_the_files_of_a_project() -> None:
    assert is_project_file(__file__)
    assert is_project_file("/usr/lib/python3.11/site-packages/my_project/heads.py")
    others = (torch.__file__, detexport.__file__, linecache.__file__, "<string>")
    assert not any(is_project_file(file) for file in others)


def test_a_line_is_shown_with_its_package() -> None:
    assert shown_line(__file__, 1).startswith("export/test_project_lines.py:1: ")


def test_the_innermost_line_of_an_error_and_of_its_causes() -> None:
    def fail() -> None:
        torch.zeros(2).reshape(3)

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert line_of_error(caught.value).endswith("torch.zeros(2).reshape(3)")
    wrapped = RuntimeError("no frames of its own")
    wrapped.__cause__ = caught.value
    assert line_of_error(wrapped) == line_of_error(caught.value)
    assert line_of_error(RuntimeError("none")) == ""


def test_the_lines_whose_values_a_trace_keeps() -> None:
    def branching(x: torch.Tensor) -> Any:
        if x.sum() > 0:
            return x
        return -x

    with warnings.catch_warnings(record=True) as shown, kept_values() as lines:
        torch.jit.trace(branching, torch.ones(2), check_trace=False)
    assert shown == []
    assert [line.partition(": ")[2] for line in lines] == ["if x.sum() > 0:"]


def test_other_warnings_are_shown() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with kept_values() as lines:
            warnings.warn("another", UserWarning, stacklevel=1)
    assert [str(one.message) for one in shown] == ["another"]
    assert lines == []
