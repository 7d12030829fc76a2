"""A batch of images of different sizes in one tensor."""

from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_images(images: List[Tensor], divisibility: int) -> Tuple[Tensor, List[Tuple[int, int]]]:
    """Pad images right and bottom with zeros to one common size.

    Written so that one image keeps a free height and width in a trace and in an export: it is padded by a
    whole multiple and cropped, since a padding computed from the size adds a guard on the size.

    Args:
        images: N float tensors (C, H, W).
        divisibility: the common size is a multiple of it; 0 and 1 mean no more than the largest image.

    Returns:
        (N, C, H', W') and the N true sizes (H, W).
    """
    height = images[0].shape[1]
    width = images[0].shape[2]
    for image in images[1:]:
        height = max(height, image.shape[1])
        width = max(width, image.shape[2])
    sizes: List[Tuple[int, int]] = []
    padded: List[Tensor] = []
    for image in images:
        sizes.append((image.shape[1], image.shape[2]))
        right, bottom = width - image.shape[2], height - image.shape[1]
        if divisibility > 1:
            image = F.pad(image, [0, right + divisibility, 0, bottom + divisibility])
            target_height = (height + divisibility - 1) // divisibility * divisibility
            target_width = (width + divisibility - 1) // divisibility * divisibility
            padded.append(image[:, :target_height, :target_width])
        else:
            padded.append(F.pad(image, [0, right, 0, bottom]))
    return torch.stack(padded), sizes


class ImageList:
    """Images of different sizes in one padded tensor.

    Args:
        tensor: (N, C, H, W), zeros beyond each image's own size.
        image_sizes: the N true sizes, height and width in px.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.tensor.device

    def to(self, device: torch.device | str) -> "ImageList":
        """The images on ``device``."""
        return ImageList(self.tensor.to(device), self.image_sizes)

    @staticmethod
    def from_tensors(tensors: list[Tensor], size_divisibility: int = 0) -> "ImageList":
        """Pad ``tensors``, each (C, H, W), to one size that ``size_divisibility`` divides.

        Raises:
            ValueError: there is no image.
        """
        if not tensors:
            raise ValueError("a batch needs at least one image, got none")
        return ImageList(*pad_images(tensors, size_divisibility))
