"""Image files as inputs of a graph, read one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from detexport.contract import ResizeRule
from detexport.data.images import read_image
from detexport.data.resize import resize_image, resized_size

BUNDLED_SAMPLE = Path(__file__).with_name("sample.png")
"""A scene of the synthetic data set: what is exported with where no image is given."""


@dataclass(frozen=True)
class ImageSamples:
    """Image files that are decoded and resized on each iteration; none is kept in memory.

    Args:
        files: paths of the images.
        channel_order: ``"RGB"`` or ``"BGR"``.
        resize: the rule of their size.
    """

    files: Sequence[Path]
    channel_order: Literal["RGB", "BGR"]
    resize: ResizeRule

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each image as uint8 (3, H, W)."""
        for file in self.files:
            image = read_image(file, self.channel_order)
            _, height, width = image.shape
            yield resize_image(image, resized_size(height, width, self.resize))
