"""Properties that give attributes of modules detectron2's names."""

from operator import attrgetter
from typing import Any

import torch


def alias_of(path: str, doc: str | None = None) -> Any:
    """Return a property of a module that is an alias of another attribute, under detectron2's name.

    Scripting ignores it, so it changes no artifact.

    Args:
        path: name of the attribute, dotted for an attribute of an attribute.
        doc: documentation of the property.
    """
    owner, _, name = path.rpartition(".")

    def read(self: Any) -> Any:
        return attrgetter(path)(self)

    def write(self: Any, value: Any) -> None:
        setattr(attrgetter(owner)(self) if owner else self, name, value)

    documented = property(read, write, doc=doc or f"Alias of ``{path}``.")
    return torch.jit.unused(documented)  # type: ignore[arg-type]
