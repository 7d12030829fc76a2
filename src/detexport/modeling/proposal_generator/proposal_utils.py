"""Proposals for code that works with structures."""

import math
from typing import Any

from torch import Tensor

from detexport.modeling.proposal_generator.rpn import select_proposals
from detexport.structures import Boxes, Instances

GROUND_TRUTH_LOGIT = math.log(1e10)
"""Objectness of a ground truth box: a probability of nearly 1."""


def add_ground_truth_to_proposals(
    gt: list[Instances] | list[Boxes], proposals: list[Instances]
) -> list[Instances]:
    """Return the proposals of each image with its ground truth boxes as further proposals.

    Args:
        gt: ground truth of each image, ``Instances`` with ``gt_boxes``, or ``Boxes``.
        proposals: with ``proposal_boxes`` and, if any, ``objectness_logits``, of each image; the ground truth
            has their other fields, too.

    Raises:
        ValueError: the ground truth lacks one of these fields.
    """
    extended = []
    for truth, found in zip(gt, proposals, strict=True):
        boxes: Any = truth.gt_boxes if isinstance(truth, Instances) else truth
        added = Instances(found.image_size, proposal_boxes=boxes)
        for name in found.get_fields().keys() - {"proposal_boxes"}:
            if name == "objectness_logits":
                added.objectness_logits = found.objectness_logits.new_full((len(boxes),), GROUND_TRUTH_LOGIT)
            elif isinstance(truth, Instances) and truth.has(name):
                added.set(name, truth.get(name))
            else:
                raise ValueError(f"proposals have the field {name!r}, which the ground truth lacks")
        extended.append(Instances.cat([found, added]))
    return extended


def find_top_rpn_proposals(
    proposals: list[Tensor],
    pred_objectness_logits: list[Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Select the best proposals of each image: clip, drop small ones, suppress per level.

    Args:
        proposals: decoded boxes (N, HWA, 4) of each level, XYXY in px.
        pred_objectness_logits: (N, HWA) of each level.
        image_sizes: height and width of each image in px.
        nms_thresh: IoU threshold of NMS.
        pre_nms_topk: proposals per level before NMS.
        post_nms_topk: proposals per image after NMS.
        min_box_size: lower bound of both sides of a proposal in px, exclusive.
        training: refuse values that are not finite instead of dropping them.

    Returns:
        ``proposal_boxes`` and ``objectness_logits``, descending, of each image.

    Raises:
        FloatingPointError: in training a box or a logit is not finite.
    """
    if training and not all(one.isfinite().all() for one in (*proposals, *pred_objectness_logits)):
        raise FloatingPointError("the proposals are not finite: training has diverged")
    found = []
    for index, size in enumerate(image_sizes):
        boxes = [level[index] for level in proposals]
        logits = [level[index : index + 1] for level in pred_objectness_logits]
        decoded = [level[None] for level in boxes]
        (selected,) = select_proposals(
            boxes, logits, decoded, [size], [], pre_nms_topk, post_nms_topk, nms_thresh, min_box_size
        )
        found.append(Instances(size, proposal_boxes=Boxes(selected[0]), objectness_logits=selected[1]))
    return found
