"""A registry of objects by name, and the objects at dotted paths."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    """Classes and functions by name.

    Args:
        name: what the entries are, such as ``"backbone"``, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, obj: Entry | None = None, *, name: str | None = None) -> Any:
        """Add a class or function; usable as a decorator with and without parentheses.

        Args:
            obj: the class or function.
            name: its name, by default its own.

        Raises:
            ValueError: the name is taken.
        """
        if obj is None:
            return partial(self.register, name=name)
        name = name or obj.__name__
        if name in self._entries:
            raise ValueError(f"{self.name} {name!r} is registered already")
        self._entries[name] = obj
        return obj

    def get(self, name: str) -> Callable[..., Any]:
        """Return the entry ``name``.

        Raises:
            KeyError: there is no such entry.
        """
        if name not in self._entries:
            raise KeyError(f"there is no {self.name} {name!r}; registered are {sorted(self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        return iter(self._entries.items())

    def __contains__(self, name: str) -> bool:
        return name in self._entries


def locate(name: str) -> Any:
    """Return the object at a dotted path, such as ``"package.module.Class.method"``.

    Raises:
        ImportError: no such object.
    """
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:end])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
                continue
            raise
        try:
            for attribute in parts[end:]:
                found = getattr(found, attribute)
        except AttributeError as error:
            raise ImportError(f"there is no {name}: {error}") from error
        return found
    raise ImportError(f"there is no {name}")
