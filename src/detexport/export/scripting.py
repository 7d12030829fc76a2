"""TorchScript by compiling the model's source."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from detexport.artifact import Artifact, Format, Provenance
from detexport.contract import Contract
from detexport.errors import ExportError
from detexport.export.graph_end import batch_graph
from detexport.export.method import ExportableModel, require_exportable, write_artifact
from detexport.export.torchscript_file import MAIN_FILE, require_fixed_hashes, save_reproducibly
from detexport.export.type_names import take_plain_names


@dataclass(frozen=True)
class Scripting:
    """``torch.jit.script``: a list of any number of images of different sizes.

    Args:
        graph_end: ``"raw"`` or ``"pasted"``: see ``Contract.ending``; pasted, the graph takes a list of
            wanted sizes beside the list of images.
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
        """See ``ExportMethod.export``; the sample is not needed."""
        require_exportable(model)
        require_fixed_hashes()
        contract = contract.ending(self.graph_end)
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
                remedy="export it by tracing, or write the part that is named in TorchScript's subset",
            ) from error
        return write_artifact(
            self,
            save_dir,
            name="scripting",
            format=Format.TORCHSCRIPT,
            main_file=MAIN_FILE,
            batch="any",
            packages=("torch", "torchvision"),
            contract=contract,
            provenance=provenance,
            write=lambda path: save_reproducibly(scripted, path),
        )
