"""PyTorch as a runtime: ExportedPrograms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  (its operators, nms and roi_align, are looked up by name when a file is loaded)

from detexport.artifact import Artifact, Format
from detexport.errors import ArtifactError
from detexport.runtime.session import check_image, name_outputs, read_verified
from detexport.runtime.torchscript import require_device


@dataclass(frozen=True)
class ExportedProgram:
    """An ExportedProgram, run operator by operator in the PyTorch process.

    Args:
        threads: threads of one operator, for the whole process (PyTorch has no finer setting);
            0 leaves the process's setting as it is.
    """

    threads: int = 0

    def open(self, artifact_dir: Path, device: str = "cpu") -> "ExportedProgramSession":
        """Load an artifact after its files' digests were checked.

        Raises:
            ArtifactError: not an ExportedProgram, or one that was changed.
            RuntimeUnavailableError: the device is not on this machine.
        """
        require_device(device)
        artifact = read_verified(artifact_dir, Format.EXPORTED_PROGRAM)
        if self.threads:
            torch.set_num_threads(self.threads)
        return ExportedProgramSession(
            artifact, device, load_program(artifact_dir, artifact).module().to(device)
        )


@dataclass(frozen=True)
class ExportedProgramSession:
    """A loaded program; see ``Session``."""

    artifact: Artifact
    device: str
    module: Any

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on one image; see ``Session``."""
        check_image(image, self.artifact)
        # A copy where the image is a flipped or read-only view: torch takes neither.
        tensor = torch.from_numpy(np.require(image, requirements=("C", "W"))).to(self.device)
        return name_outputs([output.cpu().numpy() for output in self.module(tensor)], self.artifact)


def load_program(folder: Path, artifact: Artifact) -> torch.export.ExportedProgram:
    """Load the program of an artifact whose files' digests were checked.

    Raises:
        ArtifactError: this torch cannot read it.
    """
    path = folder / artifact.main_file
    try:
        return torch.export.load(path)
    except Exception as error:  # the reader's errors have no base of their own
        raise ArtifactError(
            f"{path} cannot be loaded by torch {torch.__version__}",
            got=str(error).strip().splitlines()[-1],
            expected=f"an ExportedProgram of torch {artifact.versions.get('torch', '(not recorded)')}",
            remedy="export the model again with the installed torch",
        ) from error
