"""Proposals as structures."""

import pytest
import torch

from detexport.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detexport.structures import Boxes, Instances

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 90, 40], [5, 5, 5.5, 30]])
LOGITS = torch.tensor([1.0, 3.0, 2.0, 5.0])


def test_the_best_proposals_of_each_level_are_kept() -> None:
    levels = [BOXES[None], BOXES[None, :1] + 0.25]
    logits = [LOGITS[None], torch.tensor([[0.5]])]
    (found,) = find_top_rpn_proposals(levels, logits, [(50, 60)], 0.5, 10, 10, 1.0, training=False)
    # The first is suppressed by the second, the third is clipped, the fourth is too small.
    expected = torch.tensor([[0, 0, 10, 9], [20, 20, 60, 40], [0.25, 0.25, 10.25, 10.25]])
    torch.testing.assert_close(found.proposal_boxes.tensor, expected)
    assert found.objectness_logits.tolist() == [3, 2, 0.5]
    (fewer,) = find_top_rpn_proposals(levels, logits, [(50, 60)], 0.5, 2, 1, 0.0, training=True)
    assert fewer.objectness_logits.tolist() == [5]


def test_training_stops_at_values_that_are_not_finite() -> None:
    logits = LOGITS.clone()
    logits[0] = torch.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        find_top_rpn_proposals([BOXES[None]], [logits[None]], [(50, 60)], 0.5, 10, 10, 0.0, training=True)


def test_ground_truth_joins_the_proposals() -> None:
    proposals = Instances((50, 60), proposal_boxes=Boxes(BOXES), objectness_logits=LOGITS)
    truth = Instances((50, 60), gt_boxes=Boxes(BOXES[:1] + 1), gt_classes=torch.tensor([0]))
    for gt in (truth, truth.gt_boxes):
        (joined,) = add_ground_truth_to_proposals([gt], [proposals])
        assert torch.equal(joined.proposal_boxes.tensor, torch.cat((BOXES, BOXES[:1] + 1)))
        assert joined.objectness_logits[-1].sigmoid() > 0.999
