"""PyTorch as a runtime: TorchScript files, traced or scripted."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  (its operators, nms and roi_align, are looked up by name when a file is loaded)

from detexport.artifact import Format
from detexport.errors import ArtifactError
from detexport.runtime.session import checked_inputs
from detexport.runtime.torch_session import TorchSession, read_for_torch


@dataclass(frozen=True)
class TorchScript:
    """TorchScript in the PyTorch process.

    Args:
        threads: threads of one operator, for the whole process (PyTorch has no finer setting);
            0 leaves the process's setting as it is.
    """

    threads: int = 0

    engine = "PyTorch"
    packages = ("torch", "torchvision")

    def open(self, artifact_dir: Path, device: str = "cpu") -> "TorchScriptSession":
        """Check the digests of an artifact's files and load it.

        Raises:
            ArtifactError: it is not a TorchScript artifact, was changed, or cannot be loaded by this torch.
            RuntimeUnavailableError: the device is not on this machine.
        """
        artifact = read_for_torch(artifact_dir, device, Format.TORCHSCRIPT, self.threads)
        try:
            module = _load(artifact_dir / artifact.main_file, device)
        except RuntimeError as error:
            raise ArtifactError(
                f"{artifact_dir / artifact.main_file} cannot be loaded by torch {torch.__version__}",
                got=str(error).strip().splitlines()[-1],
                expected=f"a TorchScript file of torch {artifact.versions.get('torch', '(not recorded)')}",
                remedy="export the model again with the installed torch",
            ) from error
        return TorchScriptSession(artifact, device, module)


@dataclass(frozen=True)
class TorchScriptSession(TorchSession):
    """A loaded TorchScript module; see ``Session``."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, unchecked; see ``Session.run``."""
        if self.artifact.batch == "any":
            return self._run_lists([inputs])[0]
        return super().run(inputs)

    def run_batch(
        self, images: Sequence[np.ndarray], output_sizes: Sequence[tuple[int, int] | None]
    ) -> list[dict[str, np.ndarray]]:
        """Run the graph once on images of different sizes; see ``BatchSession.run_batch``."""
        inputs = [
            checked_inputs(image, size, self.artifact)
            for image, size in zip(images, output_sizes, strict=True)
        ]
        return self._run_lists(inputs)

    def _run_lists(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        lists = zip(*(given.values() for given in inputs), strict=True)
        names = self.artifact.contract.output_names
        with torch.inference_mode():
            found = self.module(*(list(map(self.to_tensor, values)) for values in lists))
            return [self.by_name([fields[name] for name in names if name in fields]) for fields in found]


def _load(path: Path, device: str) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # The user chose TorchScript: a deprecation warning at every load does not help.
        warnings.filterwarnings("ignore", message=r".torch\.jit\.load. is deprecated", category=FutureWarning)
        return torch.jit.load(path, map_location=device).eval()
