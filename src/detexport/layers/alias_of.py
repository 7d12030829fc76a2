"""Attributes of modules under detectron2's names."""

from operator import attrgetter
from typing import Any

import torch


def alias_of(path: str, doc: str | None = None) -> Any:
    """Return a property of a module that reads and sets another attribute, for detectron2's name of it.

    Scripts leave it out, so that it changes no artifact.

    Args:
        path: the attribute, with a dot if it is that of an attribute.
        doc: documentation of the property.
    """
    owner, _, name = path.rpartition(".")

    def read(self: Any) -> Any:
        return attrgetter(path)(self)

    def write(self: Any, value: Any) -> None:
        setattr(attrgetter(owner)(self) if owner else self, name, value)

    documented = property(read, write, doc=doc or f"Alias of ``{path}``.")
    return torch.jit.unused(documented)  # type: ignore[arg-type]
