"""PyTorch as a runtime: TorchScript files, traced or scripted."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  (its operators, nms and roi_align, are looked up by name when a file is loaded)

from detexport.artifact import Artifact, Format
from detexport.errors import ArtifactError, RuntimeUnavailableError
from detexport.runtime.session import checked_inputs, name_outputs, read_verified


@dataclass(frozen=True)
class TorchScript:
    """TorchScript in the PyTorch process.

    Args:
        threads: threads of one operator, for the whole process (PyTorch has no finer setting);
            0 leaves the process's setting as it is.
    """

    threads: int = 0

    def open(self, artifact_dir: Path, device: str = "cpu") -> "TorchScriptSession":
        """Load an artifact after its files' digests were checked.

        Raises:
            ArtifactError: not a TorchScript artifact, or one that was changed.
            RuntimeUnavailableError: the device is not on this machine.
        """
        _check_device(device)
        artifact = read_verified(artifact_dir, Format.TORCHSCRIPT)
        if self.threads:
            torch.set_num_threads(self.threads)
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
class TorchScriptSession:
    """A loaded TorchScript module; see ``Session``."""

    artifact: Artifact
    device: str
    module: torch.jit.ScriptModule

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Run the graph on one image; see ``Session``."""
        if self.artifact.batch == "any":
            return self.run_batch([image], [output_size])[0]
        inputs = checked_inputs(image, output_size, self.artifact)
        with torch.inference_mode():
            return self._by_name(self.module(*map(self._tensor, inputs.values())))

    def run_batch(
        self, images: Sequence[np.ndarray], output_sizes: Sequence[tuple[int, int] | None]
    ) -> list[dict[str, np.ndarray]]:
        """Run the graph once on a list of images, of an artifact that takes one; see ``BatchSession``."""
        inputs = [
            checked_inputs(image, size, self.artifact)
            for image, size in zip(images, output_sizes, strict=True)
        ]
        lists = zip(*(given.values() for given in inputs), strict=True)
        names = self.artifact.contract.output_names
        with torch.inference_mode():
            found = self.module(*(list(map(self._tensor, values)) for values in lists))
            return [self._by_name([fields[name] for name in names if name in fields]) for fields in found]

    def _tensor(self, value: np.ndarray) -> torch.Tensor:
        return to_tensor(value, self.device)

    def _by_name(self, outputs: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        return name_outputs([output.cpu().numpy() for output in outputs], self.artifact)


def to_tensor(value: np.ndarray, device: str) -> torch.Tensor:
    """An array as a tensor on a device, a copy only where it is a view that torch does not take."""
    return torch.from_numpy(np.require(value, requirements=("C", "W"))).to(device)


def _load(path: Path, device: str) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # TorchScript is what was asked for; that PyTorch deprecates it helps nobody at every load.
        warnings.filterwarnings("ignore", message=r".torch\.jit\.load. is deprecated", category=FutureWarning)
        return torch.jit.load(path, map_location=device).eval()


def _check_device(device: str) -> None:
    """Raise ``RuntimeUnavailableError`` unless ``device`` names one that is there."""
    kind, _, index = device.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not (index or "0").isdecimal() or int(index or 0) >= count:
        raise RuntimeUnavailableError(
            f"PyTorch cannot run on '{device}'",
            got=f"cpu and {torch.cuda.device_count()} CUDA device(s)",
            expected="'cpu', 'cuda' or 'cuda:<index>' of a device on this machine",
            remedy="choose 'cpu', or run where the device and its driver are",
        )
