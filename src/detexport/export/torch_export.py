"""ExportedProgram: the graph that ``torch.export`` records, in PyTorch operators."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from detexport.artifact import Format
from detexport.contract import Contract
from detexport.export.export_method import ExportableModel, ExportMethod, SampleInputs
from detexport.export.record_program import record_program
from detexport.formats.pt2 import save_program

MAIN_FILE = "model.pt2"


@dataclass(frozen=True)
class TorchExport(ExportMethod):
    """``torch.export`` with free height and width, batch size 1.

    Args:
        graph_end: ``"raw"`` or ``"pasted"``: see ``Contract.ending``.
    """

    graph_end: Literal["raw", "pasted"]

    name = "torch_export"
    format = Format.EXPORTED_PROGRAM
    main_file = MAIN_FILE
    packages = ("torch", "torchvision")

    def record(
        self, model: ExportableModel, sample: SampleInputs, contract: Contract
    ) -> Callable[[Path], object]:
        """Record the program: see ``ExportMethod.record``. Only the fixed sizes of ``sample`` are used."""
        return partial(save_program, record_program(model, sample, contract))
