"""Sampling of anchors and proposals for training."""

import torch
from torch import Tensor


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Sample foreground and background for training.

    Args:
        labels: (R,) class labels; -1 (ignored) is never sampled.
        num_samples: number of samples.
        positive_fraction: upper bound of the fraction of foreground samples.
        bg_label: label of the background.

    Returns:
        Indices of the sampled foreground and of the sampled background.
    """
    positive = ((labels != -1) & (labels != bg_label)).nonzero()[:, 0]
    negative = (labels == bg_label).nonzero()[:, 0]
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    return (
        positive[torch.randperm(len(positive), device=labels.device)[:num_positive]],
        negative[torch.randperm(len(negative), device=labels.device)[:num_negative]],
    )
