"""Losses of the semantic heads of DeepLab and Panoptic-DeepLab."""

import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.modeling.meta_arch.semantic_seg import class_loss


class DeepLabCE(nn.Module):
    """Mean cross entropy of the pixels with the highest loss (hard pixel mining; Yang et al. 2019).

    Args:
        ignore_label: label of ignored pixels; their loss is 0.
        top_k_percent_pixels: fraction of all pixels whose losses are averaged.
        weight: (K,) weight of each class.
    """

    def __init__(
        self, ignore_label: int = -1, top_k_percent_pixels: float = 1.0, weight: Tensor | None = None
    ) -> None:
        super().__init__()
        self.ignore_label = ignore_label
        self.top_k_percent_pixels = top_k_percent_pixels
        self.weight = weight

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            logits: (N, K, H, W).
            labels: (N, H, W) class of each pixel.
            weights: (N, H, W) weight of each pixel.
        """
        losses = F.cross_entropy(
            logits, labels, self.weight, ignore_index=self.ignore_label, reduction="none"
        )
        if weights is not None:
            losses = losses * weights
        count = int(self.top_k_percent_pixels * losses.numel())
        return losses.flatten().topk(count).values.mean() if count < losses.numel() else losses.mean()


LOSS_TYPES = ("cross_entropy", "hard_pixel_mining")
HARD_PIXELS = 0.2
"""Fraction of pixels in the loss ``hard_pixel_mining``."""


def check_loss_type(loss_type: str) -> str:
    """Return ``loss_type`` if there is such a loss.

    Raises:
        ConfigError: there is no such loss.
    """
    if loss_type not in LOSS_TYPES:
        raise ConfigError(
            "unknown semantic segmentation loss",
            got=f"MODEL.SEM_SEG_HEAD.LOSS_TYPE: {loss_type!r}",
            expected=f"one of {', '.join(LOSS_TYPES)}",
            remedy="correct MODEL.SEM_SEG_HEAD.LOSS_TYPE",
        )
    return loss_type


def deeplab_loss(
    logits: Tensor,
    target: Tensor,
    loss_type: str,
    ignore_value: int,
    hard_pixels: float = HARD_PIXELS,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the cross entropy of pixels.

    Args:
        logits: (N, K, H, W).
        target: (N, H, W) class of each pixel.
        loss_type: ``"cross_entropy"``, the mean over the pixels that are not ignored, or
            ``"hard_pixel_mining"``, that over the fraction ``hard_pixels`` with the highest loss.
        ignore_value: label of ignored pixels.
        hard_pixels: see ``loss_type``.
        weights: (N, H, W) weight of each pixel, in the loss ``hard_pixel_mining``.
    """
    if loss_type == "cross_entropy":
        return class_loss(logits, target, ignore_value)
    return DeepLabCE(ignore_value, hard_pixels)(logits, target, weights)
