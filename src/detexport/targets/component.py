"""A class of detexport by its dotted path, with its options, which are read without importing it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import yaml

from detexport.errors import ConfigError, did_you_mean
from detexport.system.class_source import class_body, required_packages
from detexport.system.extras import extra_imports


@dataclass(frozen=True)
class Component:
    """A frozen dataclass by its dotted path.

    Args:
        path: dotted path of the class.
        options: values that replace the class's defaults; it needs those that have none.
    """

    path: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Component":
        """Build it from a node of ``conf/``: ``_target_`` and the options."""
        options = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in node.items()
            if name != "_target_"
        }
        return cls(node["_target_"], options)

    @property
    def packages(self) -> tuple[str, ...]:
        """Modules of extras that it needs."""
        return required_packages(self.path)

    def build(self, **options: Any) -> Any:
        """Build the object; ``options`` override its own.

        Raises:
            MissingPackageError: a package that it needs is not installed.
        """
        module, _, name = self.path.rpartition(".")
        with extra_imports():
            return getattr(import_module(module), name)(**{**self.options, **options})

    def declared_options(self) -> dict[str, "DeclaredOption"]:
        """Return the options by name, read from the class's source, since importing it may take seconds."""
        return {
            name: DeclaredOption(name, self.options.get(name, default), choices)
            for name, (default, choices) in _declared(self.path).items()
        }


@dataclass(frozen=True)
class DeclaredOption:
    """An option of an export method or a conversion.

    Args:
        name: its name.
        default: its default value.
        choices: its allowed values, if it is annotated with ``Literal``.
    """

    name: str
    default: Any
    choices: tuple[str, ...] = ()

    def parse(self, text: str, given: str) -> Any:
        """Parse a value written in YAML.

        Args:
            text: the value.
            given: the whole option, for messages.

        Raises:
            ConfigError: the value has another type, is not one of the choices, or is an integer below 1.
        """
        value = _parsed(text)
        if isinstance(self.default, tuple) and isinstance(value, list):
            value = tuple(value)
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"invalid value of the option {self.name}",
                got=given,
                expected=f"one of {', '.join(self.choices)}",
                remedy=did_you_mean(value, self.choices) or "choose one",
            )
        fits = type(value) is type(self.default)
        if isinstance(value, tuple):
            fits = fits and all(isinstance(item, str) for item in value)
        if not fits:
            raise ConfigError(
                f"the value of the option {self.name} has another type",
                got=given,
                expected=f"{self._kind}, such as {self.name}={written_value(self.default)}",
                remedy="correct the value",
            )
        if type(value) is int and value < 1:
            raise ConfigError(
                f"the option {self.name} is out of range",
                got=given,
                expected=f"1 or more, such as {self.name}={self.default}",
                remedy="correct the value",
            )
        return value

    @property
    def _kind(self) -> str:
        return "a list of strings" if isinstance(self.default, tuple) else type(self.default).__name__


@cache
def _declared(path: str) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Return the default (None without one) and the choices of each option of a class."""
    found: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for one in class_body(path):
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
            continue
        annotation = one.annotation
        choices: tuple[str, ...] = ()
        if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
            choices = ast.literal_eval(annotation.slice)
        found[one.target.id] = (ast.literal_eval(one.value) if one.value else None, choices)
    return found


def written_value(value: Any) -> str:
    """Return a default as it is written after ``--opt NAME=``."""
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
