"""Instantiate what params.yaml selects by ``_target_``."""

import inspect
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from detexport.errors import ConfigError, MissingPackageError, did_you_mean, listed

MOST_OPTIONS = 10


def instantiate(node: DictConfig, **options: Any) -> Any:
    """Build the object that ``node._target_`` names from the node's other keys and ``options``.

    Raises:
        ConfigError: the target does not exist, or does not take the options.
        MissingPackageError: a package that the target needs is not installed.
    """
    _check_target(node, options)
    try:
        return hydra.utils.instantiate(node, **options, _convert_="all")
    except InstantiationException as error:
        # Hydra wraps whatever a constructor raises; what it raised is what matters.
        raise (error.__cause__ or error) from None


def _check_target(node: Any, options: dict[str, Any]) -> None:
    """Check a node, and those in it, against the signatures of their targets."""
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
        if isinstance(error.__cause__, MissingPackageError):  # it names the command that installs the package
            raise error.__cause__ from None
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
