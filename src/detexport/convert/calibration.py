"""The calibration images, on which activation ranges are measured."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from detexport.convert.conversion import Samples
from detexport.errors import ConfigError, ExportError
from detexport.system.progress import progress_bar


@dataclass(frozen=True)
class CalibrationSet:
    """The first samples, read again at each pass.

    Args:
        samples: images of the training split.
        number: most samples to use.

    Raises:
        ConfigError: ``number`` is not positive.
        ExportError: there are no samples.
    """

    samples: Samples
    number: int

    def __post_init__(self) -> None:
        """Check that there is at least one sample."""
        if self.number < 1:
            raise ConfigError(
                "quantization needs samples",
                got=self.number,
                expected="samples: 1 or more",
                remedy="correct the option samples",
            )
        if not len(self.samples):
            raise ExportError(
                "there are no calibration images",
                got="0 samples",
                expected="some hundred images like those that the model was trained on",
                remedy="give the data set a training split",
            )

    def __len__(self) -> int:
        return min(self.number, len(self.samples))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield images, uint8 (3, H, W)."""
        yield from self._read("calibrate")

    def where(self, holds: Callable[[np.ndarray], bool]) -> "ChosenSamples":
        """Return the samples for which a condition holds.

        Raises:
            ExportError: it holds for none.
        """
        indices = frozenset(index for index, image in enumerate(self._read("choose")) if holds(image))
        if not indices:
            raise ExportError(
                "the model detects nothing on the calibration images, which its heads need",
                got=f"0 detections on {len(self)} samples",
                expected="images of objects that the model was trained to detect",
                remedy="check the weights and the data set, or raise samples",
            )
        return ChosenSamples(self, indices)

    def _read(self, what: str) -> Iterator[np.ndarray]:
        chosen = islice(self.samples, len(self))
        yield from progress_bar(chosen, desc=what, unit="image", total=len(self), mininterval=1.0)


@dataclass(frozen=True)
class ChosenSamples:
    """Some of the samples.

    Args:
        images: all samples.
        indices: positions of the chosen ones.
    """

    images: CalibrationSet
    indices: frozenset[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield images, uint8 (3, H, W)."""
        return (image for index, image in enumerate(self.images) if index in self.indices)
