"""The session of the formats that PyTorch runs: tensors in, a tuple of tensors out, on a device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detexport.artifact import Artifact, Format
from detexport.errors import RuntimeUnavailableError
from detexport.runtime.session import GraphSession, name_outputs, read_of_format


@dataclass(frozen=True)
class TorchSession(GraphSession):
    """A loaded graph that is called with the contract's inputs; see ``Session``."""

    module: Any

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, unchecked; see ``Session.run``."""
        with torch.inference_mode():
            return self.by_name(self.module(*map(self.to_tensor, inputs.values())))

    def to_tensor(self, value: np.ndarray) -> torch.Tensor:
        """Return an input as a tensor on the graph's device."""
        # Copies a flipped or read-only view, since torch accepts neither.
        return torch.from_numpy(np.require(value, requirements=("C", "W"))).to(self.device)

    def by_name(self, outputs: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        """Return the graph's outputs as arrays by the contract's names."""
        return name_outputs([output.cpu().numpy() for output in outputs], self.artifact)


def find_devices() -> list[str]:
    """Return the names of the devices that PyTorch can run on."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def require_device(device: str) -> None:
    """Raise ``RuntimeUnavailableError`` unless ``device`` is available."""
    kind, _, index = device.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not (index or "0").isdecimal() or int(index or 0) >= count:
        raise RuntimeUnavailableError(
            f"PyTorch cannot run on '{device}'",
            got=f"cpu and {torch.cuda.device_count()} CUDA device(s)",
            expected="'cpu', 'cuda' or 'cuda:<index>' of a device on this machine",
            remedy="choose 'cpu', or run on a machine with the device and its driver",
        )


def read_for_torch(artifact_dir: Path, device: str, expected: Format, threads: int) -> Artifact:
    """Read the manifest of an artifact that PyTorch is about to load, and set the number of threads.

    Args:
        artifact_dir: folder of the artifact.
        device: the device to load it on.
        expected: format of the artifact.
        threads: threads of one operator, for the whole process; 0 leaves the process's setting as it is.

    Raises:
        ArtifactError: see ``read_of_format``.
        RuntimeUnavailableError: the device is not on this machine.
    """
    require_device(device)
    artifact = read_of_format(artifact_dir, expected)
    if threads:
        torch.set_num_threads(threads)
    return artifact
