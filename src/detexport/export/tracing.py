"""TorchScript by recording one forward pass."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from detexport.artifact import Artifact, Format, Provenance
from detexport.contract import Contract
from detexport.export.graph_end import example_inputs, image_graph
from detexport.export.method import (
    ExportableModel,
    require_exportable,
    untraceable,
    write_artifact,
)
from detexport.export.torchscript_file import MAIN_FILE, save_reproducibly
from detexport.export.type_names import take_plain_names


@dataclass(frozen=True)
class Tracing:
    """``torch.jit.trace``: height and width stay free, the batch is one image.

    A trace keeps the branches that its sample takes. The project's models have none on this road, so any
    image serves; a model of your own needs a sample that takes the branches which real images take.

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
        """See ``ExportMethod.export``."""
        require_exportable(model)
        contract = contract.ending(self.graph_end)
        graph = image_graph(model, contract)
        take_plain_names(graph)
        with torch.no_grad(), warnings.catch_warnings():
            # TorchScript is what was asked for, and that shapes become constants is measured afterwards
            # by running the artifact at other sizes.
            warnings.simplefilter("ignore", (FutureWarning, torch.jit.TracerWarning))
            try:
                traced = torch.jit.trace(graph, example_inputs(sample, contract), check_trace=False)
            except RuntimeError as error:
                raise untraceable(model, error) from error
        return write_artifact(
            self,
            save_dir,
            name="tracing",
            format=Format.TORCHSCRIPT,
            main_file=MAIN_FILE,
            batch="1",
            packages=("torch", "torchvision"),
            contract=contract,
            provenance=provenance,
            write=lambda path: save_reproducibly(traced, path),
        )
