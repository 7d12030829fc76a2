"""What every stage does first and last: read its parameters, instantiate them, say what went wrong."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra.utils
import typer
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from detexport.errors import (
    BROKEN,
    ConfigError,
    DetexportError,
    RuntimeUnavailableError,
    did_you_mean,
    fail,
    listed,
)
from detexport.process import end_on_signals, redacted_output

PARAMS = Path("params.yaml")
MOST_OPTIONS = 10
COMPOSE = "compose params.yaml again with `dvc exp run`"


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


def load_params(key: str) -> Any:
    """The value of ``key`` (dotted) in ``params.yaml``.

    Raises:
        ConfigError: the file or the key is missing, or a value is left for the user to say.
    """
    if not PARAMS.is_file():
        raise ConfigError(
            "there are no parameters",
            got=f"no file {PARAMS.resolve()}",
            expected="params.yaml in the folder that the stage is run in",
            remedy="run `dvc repro` or `dvc exp run` in the repository",
        )
    params = OmegaConf.load(PARAMS)
    node: Any = params
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            raise ConfigError(
                f"{PARAMS} has no {key}",
                got=f"no {part!r}",
                expected=listed(node) if isinstance(node, DictConfig) else "a mapping",
                remedy=f"{COMPOSE}, or correct the name",
            )
        node = node[part]
    if OmegaConf.is_config(node) and OmegaConf.missing_keys(node):
        raise ConfigError(
            f"{PARAMS} leaves values of {key} open",
            got=listed(sorted(f"{name}: ???" for name in OmegaConf.missing_keys(node))),
            expected="a value for each",
            remedy="give them: `dvc exp run -S <name>=<value>`",
        )
    return node


def instantiate(node: DictConfig, **options: Any) -> Any:
    """Build the object that ``node._target_`` names from the node's other keys and ``options``.

    Raises:
        ConfigError: the target does not exist, or does not take the options.
    """
    _check_target(node, options)
    try:
        return hydra.utils.instantiate(node, **options, _convert_="all")
    except InstantiationException as error:
        # Hydra wraps whatever a constructor raises; what it raised is what matters.
        raise (error.__cause__ or error) from None


def _check_target(node: Any, options: dict[str, Any]) -> None:
    """Hold a node, and those in it, against the signatures of their targets."""
    if not isinstance(node, DictConfig):
        return
    for value in node.values():
        _check_target(value, {})
    if "_target_" not in node:
        return
    name = node["_target_"]
    try:
        target = hydra.utils.get_object(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"the target {name} cannot be imported",
            got=error,
            expected="the dotted path of a class or function",
            remedy="correct _target_, or install the package that it needs",
        ) from error
    try:
        signature = inspect.signature(target)
    except ValueError:  # written in C without one; it will say itself what does not fit
        return
    given = {str(key): None for key in node if not str(key).startswith("_")} | options
    try:
        signature.bind(**given)
    except TypeError as error:
        unknown = [key for key in given if key not in signature.parameters]
        meant = did_you_mean(unknown[0], signature.parameters) if unknown else ""
        raise ConfigError(
            f"the options do not fit {name}",
            got=error,
            expected=listed(signature.parameters, MOST_OPTIONS) or "no options",
            remedy=meant or "correct the options under this _target_",
        ) from error
