"""Run a function as a command: options from its signature, errors in one line, exit codes, signals."""

import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

import typer

from detexport.errors import BROKEN, DetexportError, RuntimeUnavailableError, fail
from detexport.system.process import end_on_signals, redacted_output

PROJECTS = "DETEXPORT_WITH"
"""The environment variable with the projects, separated by spaces, that a stage or command imports first:
see ``detexport.detectron2_alias``."""


def run(main: Callable[..., None], *, fixed_hashes: bool = False) -> None:
    """Run a stage on the command line's arguments.

    Args:
        main: the stage.
        fixed_hashes: restart the process with PYTHONHASHSEED=0, so that results that depend on the order of
            a set of strings are reproducible.

    A ``DetexportError`` is printed in one line. The exit code is that of its class (1 a failed verdict, 2 an
    invalid request, 3 a failure), or 69 for a ``RuntimeUnavailableError``. Any other exception is a bug: the
    exit code is 3, and the stack trace is printed. Secrets of the environment are not printed, and a signal
    that ends the stage leaves no partial output.
    """
    if fixed_hashes and os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    projects = os.environ.get(PROJECTS, "").split()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    end_on_signals()
    with redacted_output():
        try:
            if projects:
                # By name: a stage without a project does not depend on the alias.
                import_module("detexport.detectron2_alias").import_projects(projects)
            app()
        except DetexportError as error:
            code = fail(error)
            sys.exit(os.EX_UNAVAILABLE if isinstance(error, RuntimeUnavailableError) else code)
        except Exception:
            traceback.print_exc()
            sys.exit(BROKEN)
