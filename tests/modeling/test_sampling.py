"""Sampling of anchors and proposals."""

import torch

from detexport.modeling.sampling import subsample_labels


def test_background_fills_up_what_the_foreground_leaves() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [-1] * 5)
    positive, negative = subsample_labels(labels, num_samples=8, positive_fraction=0.5, bg_label=0)
    assert sorted(positive.tolist()) == [10, 11, 12]
    assert len(negative) == 5
    assert (labels[negative] == 0).all()
    positive, negative = subsample_labels(labels, 4, 0.25, bg_label=0)
    assert (len(positive), len(negative)) == (1, 3)
