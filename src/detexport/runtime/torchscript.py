"""PyTorch as a runtime: TorchScript files, traced or scripted."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  (its operators, nms and roi_align, are looked up by name when a file is loaded)

from detexport.artifact import Artifact, Format
from detexport.errors import ArtifactError, RuntimeUnavailableError
from detexport.runtime.session import check_image, name_outputs, read_verified


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
        require_device(device)
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

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on one image; see ``Session``."""
        check_image(image, self.artifact)
        # A copy where the image is a flipped or read-only view: torch takes neither.
        tensor = torch.from_numpy(np.require(image, requirements=("C", "W"))).to(self.device)
        outputs = self._by_field(tensor) if self.artifact.batch == "any" else self.module(tensor)
        return name_outputs([output.cpu().numpy() for output in outputs], self.artifact)

    def _by_field(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Outputs in the contract's order of a graph that takes a list of images and names its fields."""
        fields = self.module([tensor])[0]
        return [fields[name] for name in self.artifact.contract.output_names if name in fields]


def _load(path: Path, device: str) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # TorchScript is what was asked for; that PyTorch deprecates it helps nobody at every load.
        warnings.filterwarnings("ignore", message=r".torch\.jit\.load. is deprecated", category=FutureWarning)
        return torch.jit.load(path, map_location=device).eval()


def require_device(device: str) -> None:
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
