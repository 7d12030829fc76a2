"""TorchScript by recording one forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from detexport.artifact import Format
from detexport.contract import Contract
from detexport.errors import ExportError, listed
from detexport.export.export_method import ExportableModel, ExportMethod, SampleInputs, name_of, untraceable
from detexport.export.graph_end import example_inputs, image_graph
from detexport.export.project_lines import kept_values
from detexport.export.torchscript_file import MAIN_FILE, save_reproducibly
from detexport.export.torchscript_type_numbers import take_plain_names


@dataclass(frozen=True)
class Tracing(ExportMethod):
    """``torch.jit.trace`` with free height and width, batch size 1.

    A trace records only the branches that its sample takes. The models of this package have none, so any
    image will do. A custom model needs a sample that takes the same branches as real images.

    Args:
        graph_end: ``"raw"`` or ``"pasted"``: see ``Contract.ending``.
    """

    graph_end: Literal["raw", "pasted"]

    name = "tracing"
    format = Format.TORCHSCRIPT
    main_file = MAIN_FILE
    packages = ("torch", "torchvision")

    def record(
        self, model: ExportableModel, sample: SampleInputs, contract: Contract
    ) -> Callable[[Path], object]:
        """Trace the model: see ``ExportMethod.record``."""
        graph = image_graph(model, contract)
        take_plain_names(graph)
        # TorchScript was requested. Running the artifact at other sizes afterwards reveals shapes that became
        # constants.
        with torch.no_grad(), kept_values() as lines:
            try:
                traced = torch.jit.trace(graph, example_inputs(sample, contract), check_trace=False)
            except ExportError:
                raise
            except Exception as error:  # the code of a project may raise anything
                raise untraceable(model, error) from error
        if lines and not isinstance(sample, Mapping):
            _require_free_of(lines, traced, graph, example_inputs(_other(sample, contract), contract), model)
        return partial(save_reproducibly, traced)


def _other(sample: np.ndarray, contract: Contract) -> np.ndarray:
    """Return the sample upside down, and narrower if the contract has free sizes."""
    flipped = sample[:, ::-1]
    free = isinstance(contract.inputs[0].shape[-1], str)
    return np.ascontiguousarray(flipped[:, :, : max(1, sample.shape[2] * 3 // 4)] if free else flipped)


@torch.no_grad()
def _require_free_of(
    lines: list[str], traced: Any, graph: nn.Module, inputs: tuple[Tensor, ...], model: ExportableModel
) -> None:
    """Check that a trace computes what the model computes for another image than that of the sample.

    Args:
        lines: of the project's code that a difference comes from.
        traced: the trace.
        graph: the module that was traced.
        inputs: of another image.
        model: the model, for its name.

    Raises:
        ExportError: the trace fails or its outputs differ.
    """
    expected = graph(*inputs)
    try:
        found, problem = traced(*inputs), "other outputs"
    except RuntimeError as error:
        found, problem = (), str(error).strip().splitlines()[-1]
    same = len(found) == len(expected) and all(
        one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-3)
        for one, other in zip(found, expected, strict=True)
    )
    if not same:
        raise ExportError(
            f"a trace of {name_of(model)} would keep what its code decided for the sample",
            got=f"{listed(lines)} - {problem} for another image",
            expected="code whose branches and numbers do not depend on values",
            remedy="write these lines with torch operators only, or export by torch_export",
        )
