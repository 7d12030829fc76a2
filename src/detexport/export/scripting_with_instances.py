"""``torch.jit.script`` for code that works with ``Instances`` and ``Boxes``.

TorchScript needs declared attributes, but the fields of ``Instances`` are created at run time. So a double of
each class is generated for the declared fields; the compiler uses it in place of the class.
"""

import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from keyword import iskeyword
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from detexport.errors import ExportError
from detexport.structures import Boxes, Instances

NAMES = {torch.Tensor: "Tensor", Boxes: "Boxes"}
HEADER = """
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn


class Boxes:
    def __init__(self, tensor: Tensor):
        self.tensor = tensor.to(torch.float32)

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def clip(self, box_size: Tuple[int, int]) -> None:
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides > threshold).all(dim=1)

    def get_centers(self) -> Tensor:
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    def __getitem__(self, item: Tensor) -> "Boxes":
        return Boxes(self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]


class Instances:
    def __init__(self, image_size: Tuple[int, int]{arguments}):
        self.image_size = image_size
{assignments}

    def __len__(self) -> int:
{lengths}
        raise NotImplementedError("Instances without fields have no length")
"""
FIELD = """
    @property
    def {name}(self) -> {kind}:
        value = self._{name}
        if value is None:
            raise AttributeError("the field {name} is not set")
        return value

    @{name}.setter
    def {name}(self, value: {kind}) -> None:
        self._{name} = value
"""
METHODS = """
    def has(self, name: str) -> bool:
{has}
        return False

    def set(self, name: str, value: Any) -> None:
{set}
        raise AttributeError("a field that was not declared")

    def get_fields(self) -> Dict[str, Tensor]:
        fields: Dict[str, Tensor] = {{}}
{tensors}
        return fields

    def to(self, device: torch.device) -> "Instances":
        moved = Instances(self.image_size{unset})
{moves}
        return moved

    def __getitem__(self, item: Tensor) -> "Instances":
        chosen = Instances(self.image_size{unset})
{choices}
        return chosen
"""
DETECTOR = """

# Here, where the names in the classes are these classes.
BOXES, INSTANCES = torch.jit.script(Boxes), torch.jit.script(Instances)


class Detector(nn.Module):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def forward(self, batched_inputs: List[Dict[str, Tensor]]) -> List[Instances]:
        return self.inference(batched_inputs, False)

    @torch.jit.export
    def inference(
        self, batched_inputs: List[Dict[str, Tensor]], do_postprocess: bool = True
    ) -> List[Instances]:
        if do_postprocess:
            raise NotImplementedError("a scripted model does not post-process: do_postprocess=False")
        images = [example["image"] for example in batched_inputs]
        results: List[Instances] = []
        for image, found in zip(images, self.graph(images)):
            instances = Instances((image.shape[-2], image.shape[-1]))
{fills}
            results.append(instances)
        return results
"""
_numbers = count()


def scripting_with_instances(model: nn.Module, fields: Mapping[str, type]) -> torch.jit.ScriptModule:
    """Compile a model that creates or receives ``Instances``.

    ::

        fields = {"proposal_boxes": Boxes, "objectness_logits": torch.Tensor}
        scripted = scripting_with_instances(model, fields)

    Scripted code creates ``Instances(image_size)``, with or without fields as keywords. They have their
    fields as attributes, ``image_size``, ``has``, ``set``, ``to``, a length, an index by a tensor, and
    ``get_fields``, which returns tensors. ``from_scripted`` converts a scripted model's output to ordinary
    ``Instances``.

    For a model of ``detexport.modeling``, or a submodule that is one, the compiled ``forward`` and
    ``inference`` are its ``inference(inputs, do_postprocess=False)``.

    Args:
        model: model in evaluation mode.
        fields: every field of ``Instances`` in the model, and its type: ``torch.Tensor`` or ``Boxes``.

    Raises:
        ExportError: the model is in training mode, a type is not supported, a field of the model's output is
            not declared, or the model cannot be compiled.
    """
    if model.training:
        raise ExportError(
            f"{type(model).__name__} is in training mode",
            expected="a model in evaluation mode",
            remedy="call .eval() before scripting it",
        )
    doubles = _doubles(fields)
    with ExitStack() as stack:
        stack.enter_context(_nothing_compiled_before())
        stack.enter_context(_compiled_as(Boxes, doubles.Boxes, doubles.BOXES))
        stack.enter_context(_compiled_as(Instances, doubles.Instances, doubles.INSTANCES))
        held = nn.ModuleDict({"model": model})
        stack.enter_context(_graphs_for_detectors(held, doubles, fields))
        try:
            return torch.jit.script(held["model"].eval())
        except (RuntimeError, torch.jit.frontend.NotSupportedError) as error:
            raise ExportError(
                f"{type(model).__name__} cannot be compiled by torch.jit.script",
                got=str(error).strip(),
                remedy="declare every field that is used, and write the named code in TorchScript's subset",
            ) from error


def from_scripted(instances: Any) -> Instances:
    """Convert scripted ``Instances`` to ordinary ones; fields that are not set are left out."""
    height, width = instances.image_size
    fields = instances.get_fields()
    boxes = {name for name in fields if hasattr(getattr(instances, f"_{name}"), "tensor")}
    return Instances(
        (height, width), **{name: Boxes(value) if name in boxes else value for name, value in fields.items()}
    )


def _doubles(fields: Mapping[str, type]) -> ModuleType:
    """Create a module with the doubles of both classes, for these fields."""
    unsupported = {
        name: kind for name, kind in fields.items() if kind not in NAMES or not _can_be_field(name)
    }
    if unsupported or not fields:
        raise ExportError(
            "these fields cannot be declared",
            got=", ".join(f"{name}: {kind}" for name, kind in unsupported.items()) or "no field",
            expected="names for attributes that Instances lack, each with torch.Tensor or structures.Boxes",
            remedy="rename the field; keep values of other types outside of the scripted model",
        )
    # TorchScript caches a compiled class by its name for the rest of the process.
    module = ModuleType(f"detexport_scripted_instances_{next(_numbers)}")
    module.__file__ = f"<{module.__name__}>"
    text = _source(fields)
    # TorchScript reads the source of a class from here.
    linecache.cache[module.__file__] = (len(text), None, text.splitlines(keepends=True), module.__file__)
    sys.modules[module.__name__] = module
    exec(compile(text, module.__file__, "exec"), vars(module))
    return module


def _can_be_field(name: str) -> bool:
    """Return whether ``Instances`` can have a field of this name."""
    taken = iskeyword(name) or name == "self" or hasattr(Instances, name)
    return name.isidentifier() and not name.startswith("_") and not taken


def _source(fields: Mapping[str, type]) -> str:
    kinds = {name: NAMES[kind] for name, kind in fields.items()}

    def each(template: str, indent: int = 8) -> str:
        lines = [
            line
            for name, kind in kinds.items()
            for line in template.format(name=name, kind=kind, **_as_tensor(name, kind)).splitlines()
        ]
        return "\n".join(" " * indent + line for line in lines)

    is_set = "{name}_ = self._{name}\nif {name}_ is not None:\n    "
    return (
        HEADER.format(
            arguments="".join(f", {name}: Optional[{kind}] = None" for name, kind in kinds.items()),
            assignments=each("self._{name} = {name}"),
            lengths=each(is_set + "return len({name}_)"),
        )
        + "".join(FIELD.format(name=name, kind=kind) for name, kind in kinds.items())
        + METHODS.format(
            # The defaults of the class are not yet known within it.
            unset=", None" * len(kinds),
            has=each('if name == "{name}":\n    return self._{name} is not None'),
            set=each(
                'if name == "{name}":\n    assert isinstance(value, {kind})\n'
                "    self._{name} = value\n    return"
            ),
            tensors=each(is_set + 'fields["{name}"] = {tensor}'),
            moves=each(is_set + "moved._{name} = {name}_.to(device)"),
            choices=each(is_set + "chosen._{name} = {name}_[item]"),
        )
        + DETECTOR.format(
            fills=each('if "{name}" in found:\n    instances._{name} = {from_found}', indent=12)
        )
    )


def _as_tensor(name: str, kind: str) -> dict[str, str]:
    """Return the expressions from a field to its tensor, and from a graph's output to the field."""
    if kind == "Boxes":
        return {"tensor": f"{name}_.tensor", "from_found": f'Boxes(found["{name}"])'}
    # Masks of a graph are (R, S, S), those of eager ``Instances`` (R, 1, S, S).
    channel = ".unsqueeze(1)" if name == "pred_masks" else ""
    return {"tensor": f"{name}_", "from_found": f'found["{name}"]{channel}'}


@contextmanager
def _nothing_compiled_before() -> Iterator[None]:
    """Compile with empty caches: the same code may have been compiled with other fields."""
    state, recursive = torch.jit._state, torch.jit._recursive
    kept = state._jit_caching_layer, recursive.concrete_type_store
    state._jit_caching_layer = WeakKeyDictionary()
    recursive.concrete_type_store = recursive.ConcreteTypeStore()
    try:
        yield
    finally:
        state._jit_caching_layer, recursive.concrete_type_store = kept


@contextmanager
def _compiled_as(original: type, double: type, compiled: Any) -> Iterator[None]:
    """Make the compiler use the double in place of the class, as a value and in annotations."""
    classes = torch.jit._state._script_classes
    original._jit_override_qualname = torch._jit_internal._qualified_name(double)  # type: ignore[attr-defined]
    classes[original] = compiled
    try:
        yield
    finally:
        del classes[original]
        del original._jit_override_qualname  # type: ignore[attr-defined]


@contextmanager
def _graphs_for_detectors(held: nn.Module, doubles: Any, fields: Mapping[str, type]) -> Iterator[None]:
    """Replace models whose ``forward`` cannot be compiled by their graphs."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(held.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "batch_graph"):
                _require_declared(child, fields)
                replaced.append((parent, name, child))
                graph: Any = child
                setattr(parent, name, doubles.Detector(graph.batch_graph()))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)


def _require_declared(model: Any, fields: Mapping[str, type]) -> None:
    given = model.contract(()).row_names
    missing = [name for name in given if name not in fields]
    if missing or not given:
        raise ExportError(
            f"the declared fields do not fit {type(model).__name__}'s Instances",
            got=", ".join(fields),
            expected=", ".join(given) or "a model that returns Instances",
            remedy=f"declare {', '.join(missing)} too" if missing else "export it by the method scripting",
        )
