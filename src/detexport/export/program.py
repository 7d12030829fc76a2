"""What ``torch.export`` records of a model: ``torch_export`` saves it, ``onnx`` translates it."""

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detexport.contract import Contract, TensorSpec
from detexport.errors import ExportError
from detexport.export.graph_end import example_inputs, image_graph
from detexport.export.method import ExportableModel, SampleInputs
from detexport.formats.pt2 import nms_keeps_any_number, one_is_a_size

RECORDED_SIZES = (333, 475)
"""Free sizes while recording, in px: their values matter to nothing, only that none equals another."""
CHECKED_SIZES = (*range(1, 200), 333, 512, 800, 1333, 4096)
"""Sizes of one side, in px, that a program must take with each of ``CHECKED_OTHER_SIZES`` of the other."""
CHECKED_OTHER_SIZES = (1, 31, 32, 33, 64, 65, 127, 500, 4096)


def record_program(model: ExportableModel, sample: SampleInputs, contract: Contract) -> ExportedProgram:
    """Record the graph of one image; each size that the contract leaves free stays free from 1 px on.

    Args:
        model: in evaluation mode, on the CPU.
        sample: uint8 (C, H, W); of it only the sizes that the contract fixes are taken. Or, of a graph that
            takes something else, all inputs by name; that the program takes every size is then not seen to.
        contract: what the graph takes and gives.

    Raises:
        ExportError: the model's code asks for a value or a size in a way that cannot be recorded, or some
            size of the image would be refused by the program.
    """
    graph = image_graph(model, contract)
    inputs = example_inputs(sample if isinstance(sample, Mapping) else _blank(sample, contract), contract)
    free: tuple = tuple(
        {axis: Dim.DYNAMIC(min=1) for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} or None
        for spec in contract.inputs
    )
    program = _record(graph, inputs, free, type(model).__name__)
    _drop_notes(program)
    if not isinstance(sample, Mapping):
        require_every_size(program, contract)
    # A size that follows from others needs no range; its name would be an expression, which no reader takes.
    for size in [size for size in program.range_constraints if not size.is_symbol]:
        del program.range_constraints[size]
    # Seen to hold for every size, they have nothing left to refuse, and would be source code in a file.
    program._guards_code.clear()
    return program


def _blank(sample: np.ndarray, contract: Contract) -> np.ndarray:
    """A black image of the sizes to record with."""
    image, sizes = contract.inputs[0], list(sample.shape)
    free = [axis for axis, dim in enumerate(image.shape) if isinstance(dim, str)]
    for axis, size in zip(free, RECORDED_SIZES, strict=False):
        sizes[axis] = size
    return np.zeros(sizes, image.dtype)


def _record(graph: nn.Module, inputs: tuple[Tensor, ...], free: tuple, name: str) -> ExportedProgram:
    """What ``torch.export`` records; not with a named ``Dim``.

    Its check does not see that rounding up to a multiple holds for all.
    """
    # A graph of any number of tensors has one argument for them all.
    kinds = {parameter.kind for parameter in inspect.signature(graph.forward).parameters.values()}
    shapes = (free,) if inspect.Parameter.VAR_POSITIONAL in kinds else free
    with torch.no_grad(), nms_keeps_any_number(), one_is_a_size():
        try:
            return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch.export's errors have no base of their own
            raise ExportError(
                f"torch.export cannot record {name}",
                got=str(error).strip().splitlines()[0],
                expected="code whose branches and sizes do not depend on values",
                remedy="export it by tracing, as ONNX with exporter=torchscript, or write the named part "
                "with torch's operators alone",
            ) from error


def require_every_size(program: ExportedProgram, contract: Contract) -> None:
    """See that what recording took for granted of the image's free sizes holds for all of them.

    Raises:
        ExportError: a size is refused.
    """
    guards = getattr(program.module(), "_guards_fn", None)
    if guards is None:
        return
    pairs = {pair for a in CHECKED_SIZES for b in CHECKED_OTHER_SIZES for pair in ((a, b), (b, a))}
    for pair in sorted(pairs):
        sides = dict(zip("HW", pair, strict=True))
        tensors = [_without_values(spec, sides) for spec in contract.inputs]
        try:
            guards(*tensors)
        except AssertionError as error:
            raise ExportError(
                "the recorded program would refuse some images that the model takes",
                got=f"an image of {' x '.join(map(str, tensors[0].shape))}: {error}",
                expected="every height and width from 1 px on",
                remedy="write the operator that asks for the size so that it need not",
            ) from error


def _without_values(spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    """A tensor of an input's type and shape, free sizes by their letters."""
    shape = [dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape]
    return torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta")


def _drop_notes(program: ExportedProgram) -> None:
    """Remove what names this machine: notes with paths of source files, and checks of the device."""
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.nodes:
            for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(note, None)
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                module.graph.erase_node(node)
        module.recompile()
