"""The images that ranges of activations are measured on."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm import tqdm

from detexport.convert.conversion import Samples
from detexport.errors import ConfigError, ExportError


@dataclass(frozen=True)
class CalibrationSet:
    """The first samples, read again at each pass.

    Args:
        samples: of the training split.
        number: at most so many.

    Raises:
        ConfigError: ``number`` is not positive.
        ExportError: there are no samples.
    """

    samples: Samples
    number: int

    def __post_init__(self) -> None:
        """Refuse to calibrate on nothing."""
        if self.number < 1:
            raise ConfigError("a quantization needs samples", got=self.number, expected="samples: 1 or more")
        if not len(self.samples):
            raise ExportError(
                "there is nothing to calibrate on",
                got="0 samples",
                expected="images that the model was trained for, some hundred",
                remedy="give the data set a training split",
            )

    def __len__(self) -> int:
        return min(self.number, len(self.samples))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each uint8 (3, H, W)."""
        chosen = islice(self.samples, len(self))
        yield from tqdm(chosen, desc="calibrate", unit="image", total=len(self), mininterval=1.0)
