"""A script as a command: options from its signature, errors in one line, exit codes, signals."""

import os
import sys
import traceback
from collections.abc import Callable

import typer

from detexport.errors import BROKEN, DetexportError, RuntimeUnavailableError, fail
from detexport.system.process import end_on_signals, redacted_output


def run(main: Callable[..., None], *, fixed_hashes: bool = False) -> None:
    """Run a stage on the command line's arguments.

    Args:
        main: the stage.
        fixed_hashes: start the process anew with PYTHONHASHSEED=0: what depends on the order of a set of
            strings then comes out the same every time.

    A ``DetexportError`` is the user's to mend: it is printed in one line and the exit code is that of its
    class (1 a verdict that failed, 2 a wrong request, 3 something broke), or 69 where this machine lacks what
    is needed. Everything else that is raised is ours: the exit code is 3, and it keeps its trace, since a run
    of hours is not repeated to see it. No secret of the environment is printed, and a signal that ends the
    stage leaves no part of a result.
    """
    if fixed_hashes and os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    end_on_signals()
    with redacted_output():
        try:
            app()
        except DetexportError as error:
            code = fail(error)
            sys.exit(os.EX_UNAVAILABLE if isinstance(error, RuntimeUnavailableError) else code)
        except Exception:
            traceback.print_exc()
            sys.exit(BROKEN)
