"""Segments: the steps of a model between named tensors; each can be exported and run alone.

A module declares its segments in a method ``segments``, which also collects those of its child modules. The
segments of a model, run in order, compute what its ``detect`` computes. A declaration holds for its own class
only, since a subclass may compute something else; a subclass that computes the same repeats it with
``segments = Parent.segments``. A module without a declaration is one segment; its parent creates it.

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
    """How the outputs of a segment are compared between the eager model and an artifact."""

    VALUES = "values"
    """Element by element."""
    CHOICES = "choices"
    """Element by element; a few may differ, since rounding decides which level or cell is sampled."""
    PROPOSALS = "proposals"
    """Boxes and logits, paired by IoU."""
    DETECTIONS = "detections"
    """Boxes, scores and classes, paired by class and IoU."""
    KEYPOINTS = "keypoints"
    """Positions and scores; a few positions may differ where a heatmap has equal peaks."""
    OUTPUTS = "outputs"
    """Post-processed outputs, as the parity check compares them."""


@dataclass(frozen=True)
class Port:
    """A tensor between two segments.

    Args:
        name: name of the tensor, the same in every segment that has it as an input or output.
        free: axes whose size depends on the image or on what is detected in it.
    """

    name: str
    free: tuple[int, ...]

    def spec(self, tensor: Tensor) -> TensorSpec:
        """Return the ``TensorSpec`` of this tensor; axes that are not free have their size in ``tensor``."""
        shape = [f"{self.name}.{axis}" if axis in self.free else n for axis, n in enumerate(tensor.shape)]
        return TensorSpec(self.name, str(tensor.dtype).removeprefix("torch."), tuple(shape), "")


@dataclass(frozen=True)
class Segment:
    """A step of a model between named tensors.

    Args:
        name: name of the segment.
        module: maps a list of tensors to a list of tensors; it can be exported in every format.
        inputs: its input tensors.
        outputs: its output tensors.
        kind: how its outputs are compared.
        note: why it is not divided further, where that could be done.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kind: Kind = Kind.VALUES
    note: str = ""


def maps(*names: str) -> tuple[Port, ...]:
    """Return the ports of feature maps (1, C, H, W)."""
    return tuple(Port(name, (2, 3)) for name in names)


def rows(*names: str) -> tuple[Port, ...]:
    """Return the ports of tensors with one row per proposal or detection, (R, ...)."""
    return tuple(Port(name, (0,)) for name in names)


def dense_maps(levels: Sequence[str], outputs: Sequence[str] = ("logits", "deltas")) -> tuple[Port, ...]:
    """Return the ports of a dense head's outputs: the first output of all levels, then the next."""
    return maps(*(f"{output}_{name}" for output in outputs for name in levels))


def raw_outputs(names: Sequence[str]) -> tuple[Port, ...]:
    """Return the ports of raw outputs of the graph, as the contract names them."""
    return tuple(Port(name, (1, 2) if name == "sem_seg" else (0,)) for name in names)


IMAGE_PORT = Port(IMAGE.name, (1, 2))
BATCH = maps("batch")
"""The normalized, padded batch of one image."""
PROPOSAL_BOXES = rows("proposal_boxes")
PROPOSALS = (*PROPOSAL_BOXES, *rows("objectness_logits"))
DETECTIONS = rows(*(spec.name for spec in DETECTION_OUTPUTS))


def declared_segments(module: Any, *inputs: Any) -> list[Segment]:
    """Return the segments that the class of a module declares itself, or an empty list.

    Args:
        module: a module of a model.
        *inputs: arguments of its ``segments``.
    """
    return module.segments(*inputs) if "segments" in vars(type(module)) else []


def not_cut(role: str, module: Any) -> str:
    """Return the note of a segment that consists of a whole module."""
    return f"{role} is one segment: {type(module).__name__} is not cut further"


@torch.jit.unused
def _no_forward(self: Any, *_: Any) -> Any:
    raise NotImplementedError(f"{type(self).__name__} is here for its methods alone")


def own_methods(module: nn.Module, *kept: str) -> Any:
    """Return a copy of a module with its attributes, its methods and only the child modules ``kept``.

    Otherwise the file of a segment that only decodes would contain the weights of all layers.
    """
    copied = copy.copy(module)
    kind = type(module)
    copied.__class__ = type(kind.__name__, (kind,), {"forward": _no_forward, "__module__": kind.__module__})
    copied.__dict__["_modules"] = {name: getattr(module, name) for name in kept}
    return copied


def size_of(image: Tensor) -> Tuple[int, int]:
    """Return the height and width in px of an image (3, H, W)."""
    return image.shape[1], image.shape[2]


def by_name(tensors: List[Tensor], names: List[str]) -> Dict[str, Tensor]:
    """Return the first ``len(names)`` tensors by name."""
    named: Dict[str, Tensor] = {}
    for index, name in enumerate(names):
        named[name] = tensors[index]
    return named


class Layers(nn.Module):
    """A segment's module: layers with one input and one output."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """Run the layers on the only input."""
        return [self.layers(tensors[0])]


class NamedMaps(nn.Module):
    """A segment's module: a network that returns several feature maps.

    Args:
        network: returns feature maps by name.
        names: names of the maps that are the outputs of the segment.
    """

    def __init__(self, network: Any, names: List[str]) -> None:
        super().__init__()
        self.network = network
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """Run the network on the only input; return the maps in the order of ``names``."""
        found = self.network(tensors[0])
        return [found[name] for name in self.names]


class DenseHead(nn.Module):
    """A segment's module: a dense head that predicts logits and box deltas at every level."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """Return L maps of logits, then L maps of box deltas, of L levels."""
        logits, deltas = self.head(tensors)
        return logits + deltas


class _WholeModel(nn.Module):
    """image -> the raw outputs of any model."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model: Any = model
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        found = self.model.detect([tensors[0]])[0]
        return [found[name] for name in self.names]


def model_segments(model: Any, output_names: Sequence[str]) -> list[Segment]:
    """Return the segments of a model, in the order of execution.

    Args:
        model: a model in evaluation mode.
        output_names: names of the raw outputs of its graph.
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
