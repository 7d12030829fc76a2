"""TorchScript by recording one forward pass."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from detexport.artifact import Format
from detexport.contract import Contract
from detexport.export.export_method import ExportableModel, ExportMethod, SampleInputs, untraceable
from detexport.export.graph_end import example_inputs, image_graph
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
        with torch.no_grad(), warnings.catch_warnings():
            # TorchScript was requested. Running the artifact at other sizes afterwards reveals shapes that
            # became constants.
            warnings.simplefilter("ignore", (FutureWarning, torch.jit.TracerWarning))
            try:
                traced = torch.jit.trace(graph, example_inputs(sample, contract), check_trace=False)
            except RuntimeError as error:
                raise untraceable(model, error) from error
        return partial(save_reproducibly, traced)
