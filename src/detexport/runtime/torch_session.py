"""The session of the formats that PyTorch runs: tensors in, a tuple of tensors out, on a device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detexport.artifact import Artifact
from detexport.errors import RuntimeUnavailableError
from detexport.runtime.session import checked_inputs, name_outputs


@dataclass(frozen=True)
class TorchSession:
    """A loaded graph that is called with the contract's inputs; see ``Session``."""

    artifact: Artifact
    device: str
    module: Any

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Run the graph on one image; see ``Session``."""
        return self.run(checked_inputs(image, output_size, self.artifact))

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
