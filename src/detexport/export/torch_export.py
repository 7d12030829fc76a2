"""An ExportedProgram: the graph that ``torch.export`` records, in PyTorch's own operators."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from detexport.artifact import Artifact, Format, Provenance
from detexport.contract import Contract
from detexport.export.method import ExportableModel, require_exportable, write_artifact
from detexport.export.program import record_program
from detexport.formats.pt2 import save_program

MAIN_FILE = "model.pt2"


@dataclass(frozen=True)
class TorchExport:
    """``torch.export``: height and width stay free, the batch is one image.

    Args:
        graph_end: ``"raw"`` or ``"pasted"``: see ``Contract.ending``.
    """

    graph_end: Literal["raw", "pasted"] = "raw"

    def export(
        self,
        model: ExportableModel,
        sample: np.ndarray | Mapping[str, np.ndarray],
        save_dir: Path,
        *,
        contract: Contract,
        provenance: Provenance,
    ) -> Artifact:
        """See ``ExportMethod.export``; of the sample only its fixed sizes are needed."""
        require_exportable(model)
        contract = contract.ending(self.graph_end)
        program = record_program(model, sample, contract)
        return write_artifact(
            self,
            save_dir,
            name="torch_export",
            format=Format.EXPORTED_PROGRAM,
            main_file=MAIN_FILE,
            batch="1",
            packages=("torch", "torchvision"),
            contract=contract,
            provenance=provenance,
            write=lambda path: save_program(program, path),
        )
