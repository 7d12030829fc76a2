"""Instances of one image: fields of equal length."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Instances:
    """Instances of one image; each field has one entry per instance.

    A field is set as an attribute or by a keyword: ``Instances((480, 640), pred_boxes=Boxes(...))``.

    Args:
        image_size: height and width in px of the image that the fields refer to.
        **fields: the fields.

    Raises:
        ValueError: the lengths of the fields differ.
        AttributeError: a field is read that was not set.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        object.__setattr__(self, "_image_size", image_size)
        object.__setattr__(self, "_fields", {})
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self._image_size

    def set(self, name: str, value: Any) -> None:
        """Set a field; its length must equal that of the others."""
        fields = self.get_fields()
        # A graph that is being recorded has no lengths: it would keep those of its sample.
        recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if fields and not recorded and len(value) != len(self):
            raise ValueError(f"field {name!r} has {len(value)} entries, the others have {len(self)}")
        fields[name] = value

    def get(self, name: str) -> Any:
        """Return the field ``name``."""
        return self.get_fields()[name]

    def has(self, name: str) -> bool:
        """Return whether the field ``name`` is set."""
        return name in self.get_fields()

    def remove(self, name: str) -> None:
        """Remove the field ``name``."""
        del self.get_fields()[name]

    def get_fields(self) -> dict[str, Any]:
        """Return all fields by name."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Return a copy with ``to`` called on each field that has it."""
        moved = Instances(self.image_size)
        for name, value in self.get_fields().items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Concatenate several ``Instances`` of one image.

        Raises:
            ValueError: the list is empty, or the image sizes differ.
            TypeError: the type of a field cannot be concatenated.
        """
        if not instance_lists:
            raise ValueError("Instances.cat needs at least one Instances, got none")
        first = instance_lists[0].image_size
        other = next((one.image_size for one in instance_lists if one.image_size != first), None)
        if other is not None:
            raise ValueError(f"instances of one image were expected, got the image sizes {first} and {other}")
        joined = Instances(instance_lists[0].image_size)
        for name, first in instance_lists[0].get_fields().items():
            values = [instances.get(name) for instances in instance_lists]
            joined.set(name, _join(name, first, values))
        return joined

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "image_size":
            raise AttributeError("the image size of Instances cannot change; create new Instances")
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("_fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"no field {name!r} in these Instances; the fields are {sorted(fields)}")

    def __getitem__(self, item: int | slice | Tensor) -> "Instances":
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"instance {item} of {len(self)}")
            item = slice(item, None if item == -1 else item + 1)
        return Instances(
            self.image_size, **{name: _select(value, item) for name, value in self.get_fields().items()}
        )

    def __len__(self) -> int:
        for value in self.get_fields().values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError("iterate over a field, or index by position")

    def __repr__(self) -> str:
        height, width = self.image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self.get_fields().items())
        return f"Instances(image_height={height}, image_width={width}, fields=[{fields}])"


def _select(value: Any, item: slice | Tensor) -> Any:
    if isinstance(value, list) and isinstance(item, Tensor):
        indices = item.nonzero().flatten() if item.dtype == torch.bool else item
        return [value[i] for i in indices.tolist()]
    return value[item]


def _join(name: str, first: Any, values: list[Any]) -> Any:
    if isinstance(first, Tensor):
        return torch.cat(values, dim=0)
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    if hasattr(type(first), "cat"):
        return type(first).cat(values)
    raise TypeError(f"field {name!r} of the type {type(first).__name__} cannot be concatenated")
