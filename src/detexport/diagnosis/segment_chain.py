"""The segments of a model as a chain from the image to the outputs of an artifact's graph.

The model declares its segments: see ``detexport.modeling.graph_segment``. Run in sequence, they reproduce the
model's outputs to the bit: see ``require_faithful``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detexport.contract import OUTPUT_SIZE, Contract
from detexport.errors import ExportError
from detexport.export.graph_end import image_graph, postprocess_outputs
from detexport.modeling.graph_segment import (
    IMAGE_PORT,
    Kind,
    Port,
    Segment,
    by_name,
    model_segments,
    raw_outputs,
)

SIZE_PORT = Port(OUTPUT_SIZE.name, ())
PASTED = "pasted_"
"""Prefix of the names of pasted outputs, in the frame of ``output_size``."""
FREE_WHEN_PASTED = {"pred_masks": (0, 1, 2), "sem_seg": (1, 2)}
"""Dynamic axes of pasted outputs; of the outputs that are not listed, the first axis is dynamic."""


@dataclass(frozen=True)
class Chain:
    """The segments of a model, up to the outputs of an artifact's graph.

    Args:
        contract: of the artifact's graph.
        segments: in the order of the computation.
    """

    contract: Contract
    segments: tuple[Segment, ...]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Return the names of the graph's outputs in the chain."""
        prefix = PASTED if self.contract.graph_end == "pasted" else ""
        return tuple(f"{prefix}{name}" for name in self.contract.output_names)

    @property
    def notes(self) -> list[str]:
        """Return which segments are whole modules, and why."""
        return [one.note for one in self.segments if one.note]


def cut(model: Any, contract: Contract) -> Chain:
    """Cut a model into the segments that it declares, and ``paste`` if the graph pastes masks.

    Args:
        model: in evaluation mode, on the CPU.
        contract: of the artifact's graph.
    """
    end = [_pasting(contract)] if contract.graph_end == "pasted" else []
    segments = (*model_segments(model, contract.output_names), *end)
    for one in segments:
        one.module.eval()
    return Chain(contract, segments)


def _pasting(contract: Contract) -> Segment:
    """Return the segment ``paste``, the end of a pasted graph."""
    names = contract.output_names
    processed = tuple(Port(f"{PASTED}{name}", FREE_WHEN_PASTED.get(name, (0,))) for name in names)
    inputs = (*raw_outputs(names), SIZE_PORT, IMAGE_PORT)
    return Segment("paste", _Pasting(names, contract.mask_threshold), inputs, processed, Kind.OUTPUTS)


class _Pasting(nn.Module):
    """raw outputs, output_size, image -> the outputs in the frame of output_size."""

    def __init__(self, names: Sequence[str], mask_threshold: float) -> None:
        super().__init__()
        self.names: list[str] = list(names)
        self.mask_threshold = mask_threshold

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        fields = by_name(tensors, self.names)
        processed = postprocess_outputs(fields, tensors[-1], tensors[-2], self.mask_threshold)
        return [processed[name] for name in self.names]


class FlatSegment(nn.Module):
    """A segment with one argument per tensor, for tracing and ``torch.export``."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the segment."""
        return tuple(self.segment(list(tensors)))


class ListedSegment(nn.Module):
    """A segment with one list of tensors, for scripting, which has no variadic functions."""

    def __init__(self, segment: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.segment = segment
        self.names: list[str] = list(names)

    def forward(self, tensors: list[Tensor]) -> list[dict[str, Tensor]]:
        """Run the segment; return its outputs by name, in a list of one."""
        return [by_name(self.segment(tensors), self.names)]


@dataclass(frozen=True)
class Step:
    """A segment with the eager model's tensors.

    Args:
        segment: of the eager model.
        inputs: its inputs.
        outputs: its outputs.
    """

    segment: Segment
    inputs: list[Tensor]
    outputs: list[Tensor]


def given_tensors(image: np.ndarray, contract: Contract) -> dict[str, Tensor]:
    """Return the inputs of the chain: the image, and its size if the graph pastes masks."""
    tensors = {IMAGE_PORT.name: torch.from_numpy(np.require(image, requirements=("C", "W")))}
    if contract.graph_end == "pasted":
        tensors[SIZE_PORT.name] = torch.tensor(image.shape[1:])
    return tensors


def walk(chain: Chain, image: np.ndarray) -> Iterator[Step]:
    """Run the segments one after another; a tensor is dropped after its last use.

    Args:
        chain: the eager model's.
        image: uint8 (3, H, W).
    """
    tensors = given_tensors(image, chain.contract)
    last_use = {port.name: index for index, one in enumerate(chain.segments) for port in one.inputs}
    for index, segment in enumerate(chain.segments):
        inputs = [tensors[port.name] for port in segment.inputs]
        with torch.no_grad():
            outputs = segment.module(inputs)
        tensors |= {port.name: value for port, value in zip(segment.outputs, outputs, strict=True)}
        yield Step(segment, inputs, outputs)
        kept = {name for name, last in last_use.items() if last > index} | set(chain.output_names)
        tensors = {name: value for name, value in tensors.items() if name in kept}


def require_faithful(chain: Chain, model: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """Check that the segments reproduce the model's outputs to the bit.

    Returns:
        The graph's outputs by the contract's names.

    Raises:
        ExportError: they do not.
    """
    contract = chain.contract
    actual: dict[str, Tensor] = {}
    for step in walk(chain, image):
        actual |= {port.name: value for port, value in zip(step.segment.outputs, step.outputs, strict=True)}
        actual = {name: value for name, value in actual.items() if name in chain.output_names}
    with torch.no_grad():
        expected = image_graph(model, contract)(*given_tensors(image, contract).values())
    differing = [
        name
        for name, in_chain, want in zip(contract.output_names, chain.output_names, expected, strict=True)
        if not np.array_equal(actual[in_chain].numpy(), want.numpy(), equal_nan=want.is_floating_point())
    ]
    if differing:
        raise ExportError(
            "the segments do not reproduce the model's outputs, so the model cannot be diagnosed",
            got=f"other {', '.join(differing)}",
            expected="the model's outputs, to the bit",
            remedy="give the model as it is built from its configuration: replaced methods are ignored",
        )
    return {name: want.numpy() for name, want in zip(contract.output_names, expected, strict=True)}
