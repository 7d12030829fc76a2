"""Recording of a model by ``torch.export``: ``torch_export`` saves the program, ``onnx`` translates it."""

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detexport.contract import Contract, TensorSpec
from detexport.errors import ExportError
from detexport.export.export_method import ExportableModel, SampleInputs, name_of, stopped_by
from detexport.export.graph_end import example_inputs, image_graph
from detexport.formats.pt2 import dynamic_nms_count, dynamic_size_one

RECORDED_SIZES = (333, 475)
"""Free sizes while recording, in px: any values that differ from each other."""
CHECKED_SIZES = (*range(1, 200), 333, 512, 800, 1333, 4096)
"""Sizes of one side, in px, that a program must accept with each of ``CHECKED_OTHER_SIZES`` of the other."""
CHECKED_OTHER_SIZES = (1, 31, 32, 33, 64, 65, 127, 500, 4096)


def record_program(model: ExportableModel, sample: SampleInputs, contract: Contract) -> ExportedProgram:
    """Record the graph of one image; sizes that are free in the contract are free from 1 px on.

    Args:
        model: model in evaluation mode, on the CPU.
        sample: uint8 (C, H, W), of which only the sizes that are fixed in the contract are used. Or, for a
            graph with other inputs, all inputs by name; the program is then not checked for every size.
        contract: inputs and outputs of the graph.

    Raises:
        ExportError: the model's code depends on a value or a size in a way that cannot be recorded, or the
            program would reject some size of the image.
    """
    graph = image_graph(model, contract)
    inputs = example_inputs(sample if isinstance(sample, Mapping) else _blank(sample, contract), contract)
    free: tuple = tuple(
        {axis: Dim.DYNAMIC(min=1) for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} or None
        for spec in contract.inputs
    )
    program = _record(graph, inputs, free, name_of(model))
    _drop_notes(program)
    if not isinstance(sample, Mapping):
        require_every_size(program, contract)
    # A size derived from others needs no range; its name would be an expression, which cannot be loaded.
    for size in [size for size in program.range_constraints if not size.is_symbol]:
        del program.range_constraints[size]
    # The guards hold for every checked size, and would be source code in the file.
    program._guards_code.clear()
    return program


def _blank(sample: np.ndarray, contract: Contract) -> np.ndarray:
    """Return a black image of the sizes to record with."""
    image, sizes = contract.inputs[0], list(sample.shape)
    free = [axis for axis, dim in enumerate(image.shape) if isinstance(dim, str)]
    for axis, size in zip(free, RECORDED_SIZES, strict=False):
        sizes[axis] = size
    return np.zeros(sizes, image.dtype)


def _record(graph: nn.Module, inputs: tuple[Tensor, ...], free: tuple, name: str) -> ExportedProgram:
    """Record a graph by ``torch.export``, without named ``Dim``.

    The check of a named ``Dim`` rejects a rounding up to a multiple, which holds for every size.
    """
    # A graph of any number of tensors has one variadic argument.
    kinds = {parameter.kind for parameter in inspect.signature(graph.forward).parameters.values()}
    shapes = (free,) if inspect.Parameter.VAR_POSITIONAL in kinds else free
    with torch.no_grad(), dynamic_nms_count(), dynamic_size_one():
        try:
            return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
        except ExportError:
            raise
        except Exception as error:  # torch.export's errors have no common base class
            raise ExportError(
                f"torch.export cannot record {name}",
                got=stopped_by(error),
                expected="code whose branches and sizes do not depend on values",
                remedy="export it by tracing, as ONNX with exporter=torchscript, or write the named code "
                "with torch operators only",
            ) from error


def require_every_size(program: ExportedProgram, contract: Contract) -> None:
    """Check that the guards of a program accept all free sizes of the image.

    Raises:
        ExportError: a size is rejected.
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
                "the recorded program would reject some images that the model accepts",
                got=f"an image of {' x '.join(map(str, tensors[0].shape))}: {error}",
                expected="every height and width from 1 px on",
                remedy="rewrite the operator that depends on the size",
            ) from error


def _without_values(spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    """Return a meta tensor of an input's dtype and shape; ``sizes``: free sizes by their letters."""
    shape = [dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape]
    return torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta")


def _drop_notes(program: ExportedProgram) -> None:
    """Remove metadata with local paths, and checks of the device."""
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.nodes:
            for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(note, None)
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                module.graph.erase_node(node)
        module.recompile()
