"""PyTorch as a runtime: ExportedPrograms."""

from dataclasses import dataclass
from pathlib import Path

from torch.export.passes import move_to_device_pass

from detexport.artifact import Format
from detexport.formats.pt2 import load_program
from detexport.runtime.torch_session import TorchSession, read_for_torch


@dataclass(frozen=True)
class ExportedProgram:
    """An ExportedProgram, run operator by operator in the PyTorch process.

    Args:
        threads: threads of one operator, for the whole process (PyTorch has no finer setting);
            0 leaves the process's setting as it is.
    """

    threads: int = 0

    engine = "PyTorch"
    packages = ("torch", "torchvision")

    def open(self, artifact_dir: Path, device: str = "cpu") -> TorchSession:
        """Check the digests of an artifact's files and load it.

        Raises:
            ArtifactError: it is not an ExportedProgram, was changed, or holds more than tensors and a graph.
            RuntimeUnavailableError: the device is not on this machine.
        """
        artifact = read_for_torch(artifact_dir, device, Format.EXPORTED_PROGRAM, self.threads)
        program = load_program(artifact_dir / artifact.main_file)
        if device != "cpu":
            program = move_to_device_pass(program, device)
        return TorchSession(artifact, device, program.module())
