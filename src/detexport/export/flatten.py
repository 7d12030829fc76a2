"""Flatten rich inputs and outputs to a tuple of tensors, and rebuild them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detexport.errors import ExportError
from detexport.structures import Boxes, ImageList, Instances

TENSOR = "tensor"
CONTAINERS = {"list": list, "tuple": tuple}


@dataclass(frozen=True)
class Schema:
    """The structure of a value: ``tensors, schema = flatten(value)``; ``schema(tensors) == value``.

    Args:
        kind: ``"tensor"``, ``"list"``, ``"tuple"``, ``"dict"``, ``"Boxes"``, ``"Instances"``,
            ``"ImageList"``, or the full name of a type that was filtered out.
        names: keys of a dict, fields of ``Instances``; empty for other kinds.
        parts: schemas of its elements, in the order of their tensors.
    """

    kind: str
    names: tuple[str, ...] = ()
    parts: tuple["Schema", ...] = ()

    @property
    def count(self) -> int:
        """Number of tensors in the value."""
        return 1 if self.kind == TENSOR else sum(part.count for part in self.parts)

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """Build the value from its tensors.

        Raises:
            ExportError: there are more or fewer tensors than the value needs, or an element was filtered out.
        """
        if len(tensors) != self.count:
            raise ExportError(
                "the tensors do not fit the schema",
                got=f"{len(tensors)} tensors",
                expected=f"{self.count} for {self}",
                remedy="pass all inputs or outputs of the flattened model, in its order",
            )
        if self.kind == TENSOR:
            return tensors[0]
        if self.kind not in KINDS:
            raise ExportError(
                "a value that does not consist of tensors was filtered out and cannot be rebuilt",
                got=self.kind,
                expected="tensors, and lists, tuples, dicts, Boxes, Instances and ImageList of them",
                remedy="flatten without allow_non_tensor",
            )
        values, start = [], 0
        for part in self.parts:
            values.append(part(tensors[start : start + part.count]))
            start += part.count
        return _build(self.kind, self.names, values)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        return {"kind": self.kind, "names": [*self.names], "parts": [part.to_json() for part in self.parts]}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Schema":
        """Undo ``to_json``."""
        parts = tuple(Schema.from_json(part) for part in value["parts"])
        return Schema(value["kind"], tuple(value["names"]), parts)


KINDS = {*CONTAINERS, "dict", "Boxes", "Instances", "ImageList"}


def flatten(value: Any, *, allow_non_tensor: bool = False) -> tuple[tuple[Tensor, ...], Schema]:
    """Flatten a value to its tensors; return them and the schema that rebuilds the value.

    The image size of ``Instances`` and ``ImageList`` becomes a tensor too: a trace computes it from the
    input.

    Args:
        value: tensors in lists, tuples, dicts with string keys, ``Boxes``, ``Instances`` and ``ImageList``.
        allow_non_tensor: drop elements of other types instead of raising; the value can then not be rebuilt.

    Raises:
        ExportError: an element has another type.
    """
    if isinstance(value, Tensor):
        return (value,), Schema(TENSOR)
    kind, names, parts = _unpack(value)
    if kind not in KINDS:
        if allow_non_tensor:
            return (), Schema(kind)
        raise ExportError(
            "a value does not consist of tensors",
            got=f"{kind}: {value!r}"[:200],
            expected="tensors, and lists, tuples, dicts, Boxes, Instances and ImageList of them",
            remedy="remove it from the inputs or outputs, or allow it with allow_non_tensor=True",
        )
    flattened = [flatten(part, allow_non_tensor=allow_non_tensor) for part in parts]
    tensors = tuple(tensor for part, _ in flattened for tensor in part)
    return tensors, Schema(kind, names, tuple(schema for _, schema in flattened))


def _unpack(value: Any) -> tuple[str, tuple[str, ...], list[Any]]:
    """Return kind, names and parts of a value; a kind that is not in ``KINDS`` has no parts.

    The class decides, not its name: other libraries have a ``Boxes``, too.
    """
    if isinstance(value, Instances):
        fields = value.get_fields()
        return "Instances", tuple(fields), [_size_tensor(value.image_size), *fields.values()]
    if isinstance(value, Boxes):
        return "Boxes", (), [value.tensor]
    if isinstance(value, ImageList):
        return "ImageList", (), [value.tensor, *map(_size_tensor, value.image_sizes)]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return "dict", tuple(value), list(value.values())
    for name, container in CONTAINERS.items():
        if type(value) is container:
            return name, (), [*value]
    full_name = f"{type(value).__module__}.{type(value).__qualname__}"
    return f"{full_name} with keys that are not strings" if isinstance(value, dict) else full_name, (), []


def _build(kind: str, names: tuple[str, ...], values: list[Any]) -> Any:
    if kind == "Instances":
        return Instances(_size(values[0]), **dict(zip(names, values[1:], strict=True)))
    if kind == "Boxes":
        return Boxes(values[0])
    if kind == "ImageList":
        return ImageList(values[0], [_size(size) for size in values[1:]])
    if kind == "dict":
        return dict(zip(names, values, strict=True))
    return CONTAINERS[kind](values)


def _size_tensor(size: Sequence[Any]) -> Tensor:
    """Return height and width as int64 (2,); in a trace they are tensors already and remain dynamic."""
    return torch.stack([torch.as_tensor(side, dtype=torch.int64) for side in size])


def _size(size: Tensor) -> tuple[int, int]:
    height, width = size.tolist()
    return height, width
