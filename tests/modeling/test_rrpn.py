"""Proposals of rotated boxes."""

import math

import pytest
import torch
from test_rotated_fast_rcnn import configured

from detexport.errors import ConfigError
from detexport.modeling import build_model
from detexport.modeling.proposal_generator.rrpn import select_rotated_proposals


def test_proposals_by_hand() -> None:
    """Decoded, clipped if nearly horizontal, without small ones, suppressed per level."""
    anchors = torch.tensor(
        [
            [20.0, 20.0, 10.0, 4.0, 30.0],
            [20.0, 20.0, 10.0, 4.0, 32.0],
            [2.0, 2.0, 8.0, 4.0, 0.0],
            [9, 9, 0.5, 9, 0],
        ]
    )
    logits, deltas = torch.tensor([[1.0, 2.0, 0.5, 3.0]]), torch.zeros(1, 4, 5)
    deltas[0, 1] = torch.tensor([0.2, 0.0, 0.0, math.log(2), math.pi / 2])
    same = [[anchors, anchors], [logits, logits - 0.1], [deltas, deltas]]
    ((boxes, scores),) = select_rotated_proposals(
        *same, [(40, 40)], [1.0] * 5, pre_nms_topk=3, post_nms_topk=10, nms_threshold=0.7, min_box_size=1.0
    )
    # The best three of each level; the thin one is dropped, equal boxes of different levels are both kept.
    assert scores.tolist() == pytest.approx([2.0, 1.9, 1.0, 0.9])
    torch.testing.assert_close(boxes[0], torch.tensor([22.0, 20.0, 10.0, 8.0, 122.0]))
    torch.testing.assert_close(boxes[2], anchors[0])
    ((boxes, scores),) = select_rotated_proposals(
        *same, [(40, 40)], [1.0] * 5, pre_nms_topk=4, post_nms_topk=5, nms_threshold=0.7, min_box_size=0.0
    )
    assert scores.tolist() == pytest.approx([3.0, 2.9, 2.0, 1.9, 1.0])
    ((boxes, _),) = select_rotated_proposals(
        *same, [(40, 40)], [1.0] * 5, pre_nms_topk=4, post_nms_topk=10, nms_threshold=0.7, min_box_size=1.0
    )
    # At an angle of 0 the part outside the image is cut off.
    torch.testing.assert_close(boxes[-1], torch.tensor([3.0, 2.0, 6.0, 4.0, 0.0]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.RPN.BBOX_REG_WEIGHTS", [1.0] * 4], "rotated boxes have 5 weights; got: MODEL.RPN"),
        (["MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator"], "anchors do not fit RRPN"),
        (["MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"], "not defined for rotated boxes; got: MODEL.RPN"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RPN"], "boxes have 4 weights; got: MODEL.RPN"),
    ],
)
def test_what_does_not_fit_rotated_boxes_is_named(overrides: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(configured(*overrides))
