"""Masks of the instances of one image."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import roi_align


class BitMasks:
    """Masks as bitmaps of the image's size.

    Args:
        tensor: (R, H, W), converted to bool.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise ValueError(f"bit masks have the shape (R, H, W), got {tuple(tensor.shape)}")
        self.tensor = tensor

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.tensor.shape[1], self.tensor.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the masks lie."""
        return self.tensor.device

    def to(self, device: torch.device | str) -> "BitMasks":
        """The masks on ``device``."""
        return BitMasks(self.tensor.to(device))

    def nonempty(self) -> Tensor:
        """(R,) bool: at least one pixel is set."""
        return self.tensor.flatten(1).any(dim=1)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Each mask within its box on a grid, as the mask loss needs it.

        Args:
            boxes: (R, 4) XYXY in px, one a mask.
            mask_size: cells a side.

        Returns:
            (R, mask_size, mask_size) bool.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(self)} masks need as many boxes, got {len(boxes)}")
        indices = torch.arange(len(self), device=boxes.device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([indices, boxes], dim=1)
        bitmaps = self.tensor.to(boxes.dtype)[:, None]
        grid = roi_align(bitmaps, rois, (mask_size, mask_size), 1.0, 0, True)
        return grid[:, 0] >= 0.5

    @staticmethod
    def cat(masks: list["BitMasks"]) -> "BitMasks":
        """One ``BitMasks`` of several of one image size, in order."""
        return BitMasks(torch.cat([mask.tensor for mask in masks], dim=0))

    def __getitem__(self, item: int | slice | Tensor) -> "BitMasks":
        if isinstance(item, int):
            return BitMasks(self.tensor[item].unsqueeze(0))
        return BitMasks(self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"BitMasks({len(self)} of {self.image_size})"
