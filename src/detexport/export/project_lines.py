"""Lines of a project's code: where the recording of its model stopped, and where it kept a value."""

import linecache
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision

RECORDER = str(Path("torch", "jit", "_trace.py"))
"""The file whose functions call the model that is traced: frames outside it are those of the caller."""
CONVERSIONS = ("__len__", "__iter__", "__bool__", "__int__", "__float__", "__index__")
"""Methods of detexport's structures in which a project's built-in function keeps a value."""
_DETEXPORT = str(Path(__file__).parents[1])
_PACKAGES = (str(Path(torch.__file__).parent), str(Path(torchvision.__file__).parent), _DETEXPORT)
_STDLIB = sysconfig.get_paths()["stdlib"]


def is_project_file(name: str) -> bool:
    """Return whether a file is neither of torch, torchvision or detexport nor of Python itself."""
    in_packages = "site-packages" in name or "dist-packages" in name
    return not (name.startswith((*_PACKAGES, "<")) or (name.startswith(_STDLIB) and not in_packages))


def line_of_error(error: BaseException) -> str:
    """Return the innermost line of a project that an error passed through: see ``shown_line``; else empty."""
    one: BaseException | None = error
    while one is not None:
        frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(one.__traceback__)]
        for file, number in reversed(frames):
            if is_project_file(file):
                return shown_line(file, number)
        one = one.__cause__ or one.__context__
    return ""


def shown_line(file: str, number: int) -> str:
    """Return a line of code as ``package/module.py:12: code``."""
    return f"{Path(*Path(file).parts[-2:]).as_posix()}:{number}: {linecache.getline(file, number).strip()}"


@contextmanager
def kept_values() -> Iterator[list[str]]:
    """Collect the lines of a project at which ``torch.jit.trace`` warns that it keeps a value of its sample.

    Warnings at lines of other packages, and those that TorchScript is deprecated, are ignored.
    """
    lines: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
            if not issubclass(category, torch.jit.TracerWarning):
                show(message, category, *place, **options)
            elif (line := _calling_line()) and line not in lines:
                lines.append(line)

        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("always", torch.jit.TracerWarning)
        warnings.showwarning = collect
        yield lines


def _calling_line() -> str:
    """Return the line of a project whose operator or built-in function keeps a value; else empty."""
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.endswith(RECORDER):
        file = frame.f_code.co_filename
        if is_project_file(file):
            return shown_line(file, frame.f_lineno)
        if file.startswith(_DETEXPORT) and file != __file__ and frame.f_code.co_name not in CONVERSIONS:
            return ""  # a check of detexport's own, which does not depend on the sample
        frame = frame.f_back
    return ""
