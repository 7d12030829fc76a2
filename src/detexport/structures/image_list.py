"""Batches of images of different sizes in one tensor."""

import warnings
from dataclasses import dataclass
from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detexport.errors import InputError


def pad_images(
    images: List[Tensor], divisibility: int, pad_value: float = 0.0
) -> Tuple[Tensor, List[Tuple[int, int]]]:
    """Pad images on the right and at the bottom to a common size.

    The common size is computed in one expression. This keeps the symbolic sizes of all feature maps short in
    an exported program: a crop would leave a minimum in each.

    Args:
        images: N float tensors (C, H, W).
        divisibility: the common size is a multiple of it; with 0 or 1 it is that of the largest sides.
        pad_value: value of the padding.

    Returns:
        (N, C, H', W') and the N sizes (H, W) before padding.
    """
    height = images[0].shape[1]
    width = images[0].shape[2]
    for image in images[1:]:
        height = max(height, image.shape[1])
        width = max(width, image.shape[2])
    if divisibility > 1:
        height = (height + divisibility - 1) // divisibility * divisibility
        width = (width + divisibility - 1) // divisibility * divisibility
    sizes: List[Tuple[int, int]] = []
    padded: List[Tensor] = []
    for image in images:
        sizes.append((image.shape[1], image.shape[2]))
        right, bottom = width - image.shape[2], height - image.shape[1]
        padded.append(F.pad(image, [0, right, 0, bottom], value=pad_value))
    return torch.stack(padded), sizes


@dataclass(frozen=True)
class SquarePadding:
    """Padding like ``pad_images``, to a square of a fixed size.

    A single larger image is cropped to it, with a warning; its recorded size does not change. Objects in the
    cropped region are not detected.

    Args:
        side: of the square in px, before it is rounded up to a multiple of the divisibility.
    """

    side: int

    def __call__(
        self, images: list[Tensor], divisibility: int, pad_value: float = 0.0
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return what ``pad_images`` returns for the same arguments.

        Raises:
            InputError: one of several images is larger than the square.
        """
        step = max(divisibility, 1)
        side = (self.side + step - 1) // step * step
        self._check_sizes(images, side)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        # Padded by the whole side, then cropped: the size then is a constant of a graph, for images of any
        # size, also where the exporter cannot know whether the image is larger.
        padded = [F.pad(image, [0, side, 0, side], value=pad_value)[:, :side, :side] for image in images]
        return torch.stack(padded), sizes

    def _check_sizes(self, images: list[Tensor], limit: int) -> None:
        """Compare the images with the padded square, whose side is ``limit``."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        largest = max(side for image in images for side in image.shape[1:])
        if largest <= limit:
            return
        if len(images) > 1:
            raise InputError(
                "an image does not fit into the square that a batch is padded to",
                got=f"a side of {largest} px",
                expected=f"at most {limit} px, square_size {self.side} rounded up to the divisibility",
                remedy="resize the images before, or give one image at a time, which is cropped",
            )
        warnings.warn(
            f"an image side of {largest} px is cropped to {limit} px (square_size {self.side}); "
            "resize the image before",
            stacklevel=2,
        )


class ImageList:
    """Images of different sizes in one padded tensor.

    Args:
        tensor: (N, C, H, W) or (N, H, W), padded on the right and at the bottom.
        image_sizes: the N sizes before padding, height and width in px.
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
        """Device of the images."""
        return self.tensor.device

    def to(self, device: torch.device | str) -> "ImageList":
        """Return the images on ``device``."""
        return ImageList(self.tensor.to(device), self.image_sizes)

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pad images on the right and at the bottom to one size.

        Args:
            tensors: each (C, H, W), or (H, W) such as semantic labels.
            size_divisibility: the common height and width are a multiple of it.
            pad_value: value of the padding.
            padding_constraints: requirements of a backbone: ``size_divisibility``, which replaces the
                argument, and ``square_size``, the side of the batch unless it is 0.

        Raises:
            ValueError: there is no image, or a constraint is unknown.
            InputError: one of several images is larger than ``square_size``.
        """
        if not tensors:
            raise ValueError("a batch needs at least one image, got none")
        constraints = padding_constraints or {}
        unknown = sorted(set(constraints) - {"size_divisibility", "square_size"})
        if unknown:
            raise ValueError(
                f"unknown padding constraints {unknown}; expected size_divisibility or square_size"
            )
        size_divisibility = constraints.get("size_divisibility", size_divisibility)
        flat = [tensor.reshape(-1, *tensor.shape[-2:]) for tensor in tensors]
        square = constraints.get("square_size", 0)
        pad = SquarePadding(square) if square else pad_images
        batch, sizes = pad(flat, size_divisibility, pad_value)
        return ImageList(batch.reshape(len(tensors), *tensors[0].shape[:-2], *batch.shape[-2:]), sizes)
