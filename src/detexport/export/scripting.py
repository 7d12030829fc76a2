"""TorchScript by compiling the model's source."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from detexport.artifact import Format
from detexport.contract import Contract
from detexport.errors import ExportError
from detexport.export.export_method import ExportableModel, ExportMethod, SampleInputs
from detexport.export.graph_end import batch_graph
from detexport.export.torchscript_file import MAIN_FILE, require_fixed_hashes, save_reproducibly
from detexport.export.torchscript_type_numbers import take_plain_names


@dataclass(frozen=True)
class Scripting(ExportMethod):
    """``torch.jit.script`` with a list of any number of images of different sizes.

    Args:
        graph_end: ``"raw"`` or ``"pasted"``: see ``Contract.ending``. A pasted graph has a second input, the
            list of output sizes.
    """

    graph_end: Literal["raw", "pasted"]

    name = "scripting"
    format = Format.TORCHSCRIPT
    main_file = MAIN_FILE
    packages = ("torch", "torchvision")
    batch = "any"

    def check(self) -> None:
        """Check that the process has fixed hashes: see ``require_fixed_hashes``."""
        require_fixed_hashes()

    def record(
        self, model: ExportableModel, sample: SampleInputs, contract: Contract
    ) -> Callable[[Path], object]:
        """Compile the model: see ``ExportMethod.record``. ``sample`` is not used."""
        graph = batch_graph(model, contract)
        take_plain_names(graph)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
                scripted = torch.jit.script(graph)
        except (RuntimeError, torch.jit.frontend.NotSupportedError) as error:
            raise ExportError(
                f"{type(model).__name__} cannot be compiled by torch.jit.script",
                got=str(error).strip().splitlines()[0],
                remedy="export it by tracing, or write the named code in TorchScript's subset",
            ) from error
        return partial(save_reproducibly, scripted)
