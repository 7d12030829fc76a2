"""Augmentations: transforms that are drawn for an image, from numpy's global generator."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from detexport.data.transforms.transform import Transform, TransformList


class AugInput:
    """Values that are augmented together.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) XYXY in px.
        sem_seg: (H, W) labels.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Transform all values, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: "Sequence[Augmentation | Transform]") -> TransformList:
        """Augment all values, in place, and return the transforms."""
        return AugmentationList(augmentations)(self)


class Augmentation:
    """Base class; subclasses have ``get_transform(image)``, optionally with ``boxes`` or ``sem_seg``."""

    get_transform: Any

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Set the arguments of a constructor, its ``locals()``, as attributes."""
        Transform._set_attributes(self, params)  # type: ignore[arg-type]

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """Draw a number from [low, high), or [0, low) without ``high``; an array if ``size`` is given."""
        low, high = (0.0, low) if high is None else (low, high)
        return np.random.uniform(low, high, size)

    def __call__(self, aug_input: AugInput) -> Transform:
        """Draw a transform, apply it to ``aug_input`` in place and return it."""
        names = inspect.signature(self.get_transform).parameters
        transform: Transform = self.get_transform(*(getattr(aug_input, name) for name in names))
        aug_input.transform(transform)
        return transform


TransformGen = Augmentation
StandardAugInput = AugInput
"""Older names of detectron2."""


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[Any, TransformList]:
    """Apply augmentations in order.

    Args:
        augmentations: drawn for the values as they are when their turn comes.
        inputs: an image, or values that are augmented together, in place.

    Returns:
        the augmented image or values, and the transforms.
    """
    values = AugInput(inputs) if isinstance(inputs, np.ndarray) else inputs
    transforms = AugmentationList(augmentations)(values)
    return values.image if isinstance(inputs, np.ndarray) else values, transforms


apply_transform_gens = apply_augmentations
"""Older name in detectron2."""


class AugmentationList(Augmentation):
    """A sequence of augmentations or transforms.

    Args:
        augs: in order of application.
    """

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = list(augs)

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Apply all of them to ``aug_input`` in place and return the transforms."""
        done = []
        for aug in self.augs:
            if isinstance(aug, Augmentation):
                done.append(aug(aug_input))
            else:
                aug_input.transform(aug)
                done.append(aug)
        return TransformList(done)
