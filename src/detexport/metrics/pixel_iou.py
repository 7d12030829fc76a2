"""Mean IoU of semantic segmentation."""

from collections.abc import Iterable

import numpy as np

from detexport.data.coco import CocoRecord, read_sem_seg

UNLABELLED = 255
"""Label of pixels that are ignored."""


class PixelIou:
    """Intersection and union of the pixels of each class, accumulated image by image."""

    def __init__(self) -> None:
        self.intersection: dict[int, int] = {}
        self.union: dict[int, int] = {}

    def add(self, record: CocoRecord, sem_seg: np.ndarray) -> None:
        """Evaluate the (C, H, W) logits of one image and accumulate its counts."""
        self.accumulate(self.evaluate_image(record, sem_seg))

    def accumulate(self, pixels: Iterable[tuple[int, int, int]]) -> None:
        """Add the counts of one image, as ``evaluate_image`` returns them."""
        for label, intersection, union in pixels:
            self.intersection[label] = self.intersection.get(label, 0) + intersection
            self.union[label] = self.union.get(label, 0) + union

    @staticmethod
    def evaluate_image(record: CocoRecord, sem_seg: np.ndarray) -> list[tuple[int, int, int]]:
        """Count the pixels of each class in the (C, H, W) logits of one image and in its ground truth.

        Returns:
            (label, pixels of the intersection, pixels of the union) of each class that is predicted or
            annotated.

        Raises:
            DataError: the data set has no semantic segmentation, or one of another size.
        """
        gt = read_sem_seg(record)
        labels = np.where(gt == UNLABELLED, UNLABELLED, sem_seg.argmax(0))
        present = [label for label in np.union1d(gt, labels).tolist() if label != UNLABELLED]
        return [
            (
                label,
                int(((gt == label) & (labels == label)).sum()),
                int(((gt == label) | (labels == label)).sum()),
            )
            for label in present
        ]

    def result(self) -> dict[str, float]:
        """Return ``sem_seg/mIoU``, the mean over the classes that are predicted or annotated."""
        ious = [self.intersection[label] / pixels for label, pixels in self.union.items()]
        return {"sem_seg/mIoU": float(np.mean(ious))} if ious else {}
