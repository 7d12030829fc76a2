"""Mean IoU of the classes of pixels."""

from collections.abc import Iterable

import numpy as np

from detexport.data.coco import CocoRecord, read_sem_seg

UNLABELLED = 255
"""The class of a pixel that counts neither for nor against."""


class PixelIou:
    """Intersection and union of each class's pixels, gathered image by image."""

    def __init__(self) -> None:
        self.both: dict[int, int] = {}
        self.either: dict[int, int] = {}

    def add(self, record: CocoRecord, sem_seg: np.ndarray) -> None:
        """Evaluate the (C, H, W) logits of one image and count them; see ``look``."""
        self.count(self.look(record, sem_seg))

    def count(self, pixels: Iterable[tuple[int, int, int]]) -> None:
        """Add an image's pixels to those of all; see ``look``."""
        for label, both, either in pixels:
            self.both[label] = self.both.get(label, 0) + both
            self.either[label] = self.either.get(label, 0) + either

    @staticmethod
    def look(record: CocoRecord, sem_seg: np.ndarray) -> list[tuple[int, int, int]]:
        """Evaluate the (C, H, W) logits of one image.

        Returns:
            of each class that is there or was found its label, the pixels that are of it and were found to
            be, and the pixels that are or were.

        Raises:
            DataError: the data set does not say the classes of its pixels, or of an image of another size.
        """
        true = read_sem_seg(record)
        labels = np.where(true == UNLABELLED, UNLABELLED, sem_seg.argmax(0))
        there = [label for label in np.union1d(true, labels).tolist() if label != UNLABELLED]
        return [
            (
                label,
                int(((true == label) & (labels == label)).sum()),
                int(((true == label) | (labels == label)).sum()),
            )
            for label in there
        ]

    def result(self) -> dict[str, float]:
        """``sem_seg/mIoU``, over the classes that are there or were found."""
        ious = [self.both[label] / pixels for label, pixels in self.either.items()]
        return {"sem_seg/mIoU": float(np.mean(ious))} if ious else {}
