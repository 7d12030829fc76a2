"""Segments: the parts of a model between named tensors, each of which can be exported and run alone.

A module declares its segments with a method ``segments``, which composes what its own modules declare. Run
one after another, the segments of a model compute what its ``detect`` computes. A declaration holds for its
class alone, since a subclass may compute something else; a subclass that computes the same repeats it with
``segments = Parent.segments``. A module that declares nothing is one segment, made by the module around it.

Shapes: one image, L levels, R rows (proposals or detections), K classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn

from detexport.contract import DETECTION_OUTPUTS, IMAGE, TensorSpec


class Kind(StrEnum):
    """How two sides of a segment's outputs are compared."""

    VALUES = "values"
    """Number by number."""
    CHOICES = "choices"
    """Number by number; a few may differ, since rounding decides which level or cell is looked at."""
    PROPOSALS = "proposals"
    """Boxes and logits, paired by IoU."""
    DETECTIONS = "detections"
    """Boxes, scores and classes, paired by class and IoU."""
    KEYPOINTS = "keypoints"
    """Positions, of which a few may flip between equal peaks, and scores."""
    OUTPUTS = "outputs"
    """Post-processed outputs, as a verdict compares them."""


@dataclass(frozen=True)
class Port:
    """A tensor between two segments.

    Args:
        name: of the tensor, the same in every segment that takes or gives it.
        free: axes whose size depends on the image or on what is detected in it.
    """

    name: str
    free: tuple[int, ...]

    def spec(self, tensor: Tensor) -> TensorSpec:
        """Describe the tensor for a graph; sizes that are not free are those of ``tensor``."""
        shape = [f"{self.name}.{axis}" if axis in self.free else n for axis, n in enumerate(tensor.shape)]
        return TensorSpec(self.name, str(tensor.dtype).removeprefix("torch."), tuple(shape), "")


@dataclass(frozen=True)
class Segment:
    """A part of a model between named tensors.

    Args:
        name: of the segment.
        module: a list of tensors in, a list of tensors out, in every kind of graph.
        inputs: what it takes.
        outputs: what it gives.
        kind: how its outputs are compared.
        note: why it is not cut further, if it could be.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kind: Kind = Kind.VALUES
    note: str = ""


def maps(*names: str) -> tuple[Port, ...]:
    """Return ports of feature maps (1, C, H, W)."""
    return tuple(Port(name, (2, 3)) for name in names)


def rows(*names: str) -> tuple[Port, ...]:
    """Return ports of tensors with a row for each proposal or detection, (R, ...)."""
    return tuple(Port(name, (0,)) for name in names)


def dense_maps(levels: Sequence[str], outputs: Sequence[str] = ("logits", "deltas")) -> tuple[Port, ...]:
    """Return ports of the outputs of a dense head: the first output of all levels, then the next."""
    return maps(*(f"{output}_{name}" for output in outputs for name in levels))


def raw_outputs(names: Sequence[str]) -> tuple[Port, ...]:
    """Return ports of outputs of the graph, as the contract names them."""
    return tuple(Port(name, (1, 2) if name == "sem_seg" else (0,)) for name in names)


IMAGE_PORT = Port(IMAGE.name, (1, 2))
BATCH = maps("batch")
"""The padded batch of one image, normalized."""
PROPOSAL_BOXES = rows("proposal_boxes")
PROPOSALS = (*PROPOSAL_BOXES, *rows("objectness_logits"))
DETECTIONS = rows(*(spec.name for spec in DETECTION_OUTPUTS))


def declared_segments(module: Any, *inputs: Any) -> list[Segment]:
    """Return the segments that the class of a module declares; none if it declares none of its own.

    Args:
        module: a part of a model.
        *inputs: what its ``segments`` takes.
    """
    return module.segments(*inputs) if "segments" in vars(type(module)) else []


def not_cut(role: str, module: Any) -> str:
    """Return the note of a segment that is a whole module."""
    return f"{role} is one segment: {type(module).__name__} is not cut further"


@torch.jit.unused
def _no_forward(self: Any, *_: Any) -> Any:
    raise NotImplementedError(f"{type(self).__name__} is here for its methods alone")


def own_methods(module: nn.Module, *kept: str) -> Any:
    """Return a copy of a module with its numbers and methods, and of its children only those that are kept.

    A segment that only decodes would otherwise carry the weights of all layers into its file.
    """
    copied = copy.copy(module)
    kind = type(module)
    copied.__class__ = type(kind.__name__, (kind,), {"forward": _no_forward, "__module__": kind.__module__})
    copied.__dict__["_modules"] = {name: getattr(module, name) for name in kept}
    return copied


def size_of(image: Tensor) -> Tuple[int, int]:
    """Return height and width in px of (3, H, W)."""
    return image.shape[1], image.shape[2]


def by_name(tensors: List[Tensor], names: List[str]) -> Dict[str, Tensor]:
    """Return the first tensors of a list by these names."""
    named: Dict[str, Tensor] = {}
    for index, name in enumerate(names):
        named[name] = tensors[index]
    return named


class Layers(nn.Module):
    """Layers as the module of a segment."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """One tensor -> the output of the layers."""
        return [self.layers(tensors[0])]


class NamedMaps(nn.Module):
    """A network of several feature maps as the module of a segment.

    Args:
        network: gives the maps by name.
        names: of the maps that the segment gives.
    """

    def __init__(self, network: Any, names: List[str]) -> None:
        super().__init__()
        self.network = network
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """One tensor -> the maps, in the order of their names."""
        found = self.network(tensors[0])
        return [found[name] for name in self.names]


class DenseHead(nn.Module):
    """A head of logits and box deltas over levels as the module of a segment."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """L levels -> L maps of logits, L maps of deltas."""
        logits, deltas = self.head(tensors)
        return logits + deltas


class _WholeModel(nn.Module):
    """image -> the raw outputs, by a model of any kind."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model: Any = model
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        found = self.model.detect([tensors[0]])[0]
        return [found[name] for name in self.names]


def model_segments(model: Any, output_names: Sequence[str]) -> list[Segment]:
    """Return the segments of a model, in the order of the computation.

    Args:
        model: in evaluation mode.
        output_names: the raw outputs of its graph.
    """
    return declared_segments(model) or [
        Segment(
            "model",
            _WholeModel(model, output_names),
            (IMAGE_PORT,),
            raw_outputs(output_names),
            Kind.OUTPUTS,
            not_cut("the model", model),
        )
    ]
