"""Region proposal network of rotated boxes (Ma et al. 2018, arXiv:1703.01086).

Shapes: N images, L levels, A anchors per cell, R proposals of an image.
"""

from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detexport.config import configurable
from detexport.errors import ConfigError
from detexport.layers import batched_nms_rotated
from detexport.modeling.anchor_generator import by_anchor
from detexport.modeling.box_regression import Box2BoxTransformRotated, apply_rotated_deltas
from detexport.modeling.proposal_generator.rpn import RPN
from detexport.modeling.registries import PROPOSAL_GENERATOR_REGISTRY
from detexport.structures import RotatedBoxes
from detexport.structures.rotated_boxes import clip_rotated_boxes, nonempty_rotated_boxes


@PROPOSAL_GENERATOR_REGISTRY.register()
class RRPN(RPN):
    """Region proposal network whose anchors and proposals are rotated boxes.

    Args:
        *args: see ``RPN``.
        **kwargs: see ``RPN``; ``box2box_transform`` is a ``Box2BoxTransformRotated``.
    """

    box_type = RotatedBoxes
    transform_type = Box2BoxTransformRotated
    box_dim = 5

    @configurable
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_smooth_l1(self.box_reg_loss_type, "MODEL.RPN.BBOX_REG_LOSS_TYPE")

    def predict_anchors(
        self,
        features: Dict[str, Tensor],
    ) -> Tuple[List[Tensor], List[Tensor], List[Tensor]]:
        """Return logits (N, HWA), box deltas (N, HWA, 5) and anchors (HWA, 5) of each level."""
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        logit_maps, delta_maps = self.rpn_head(levels)
        logits = [by_anchor(maps, 1).flatten(1) for maps in logit_maps]
        deltas = [by_anchor(maps, 5) for maps in delta_maps]
        return logits, deltas, anchors

    def find_proposals(
        self,
        anchors: List[Tensor],
        logits: List[Tensor],
        deltas: List[Tensor],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Tuple[Tensor, Tensor]]:
        """Return rotated boxes (R, 5) and their logits (R,), descending: see ``select_rotated_proposals``."""
        if not torch.jit.is_scripting() and len(self.box_weights) == 0:
            deltas = self.decoded(anchors, deltas)
        return select_rotated_proposals(
            anchors,
            logits,
            deltas,
            image_sizes,
            self.box_weights,
            pre_nms_topk=self.pre_nms_topk_train if self.training else self.pre_nms_topk_test,
            post_nms_topk=self.post_nms_topk_train if self.training else self.post_nms_topk_test,
            nms_threshold=self.nms_threshold,
            min_box_size=self.min_box_size,
        )


def select_rotated_proposals(
    anchors: List[Tensor],
    logits: List[Tensor],
    deltas: List[Tensor],
    image_sizes: List[Tuple[int, int]],
    box_weights: List[float],
    pre_nms_topk: int,
    post_nms_topk: int,
    nms_threshold: float,
    min_box_size: float,
) -> List[Tuple[Tensor, Tensor]]:
    """Select proposals of rotated boxes, as ``select_proposals`` does.

    Args:
        anchors: (HWA, 5) per level.
        logits: (N, HWA) per level.
        deltas: (N, HWA, 5) per level.
        image_sizes: height and width of each image in px; only boxes that are nearly horizontal are clipped.
        box_weights: factors of the deltas; none if ``deltas`` are decoded boxes.
        pre_nms_topk: proposals per level before NMS.
        post_nms_topk: proposals per image after NMS.
        nms_threshold: IoU threshold of NMS.
        min_box_size: lower bound of both sides of a proposal in px, exclusive.

    Returns:
        (R, 5) boxes and (R,) logits, descending, of each image.
    """
    # The padding lets topk return k of fewer than k values; its score removes it again.
    pad_score = -1e9
    results: List[Tuple[Tensor, Tensor]] = []
    for image in range(len(image_sizes)):
        level_boxes: List[Tensor] = []
        level_scores: List[Tensor] = []
        level_ids: List[Tensor] = []
        for level in range(len(anchors)):
            padded = F.pad(logits[level][image], [0, pre_nms_topk], value=pad_score)
            scores, indices = padded.topk(pre_nms_topk)
            real = (scores > pad_score).nonzero()[:, 0]
            scores, indices = scores[real], indices[real]
            boxes = deltas[level][image][indices]
            if torch.jit.is_scripting() or len(box_weights) > 0:
                boxes = apply_rotated_deltas(boxes, anchors[level][indices], box_weights)
            level_boxes.append(boxes)
            level_scores.append(scores)
            level_ids.append(torch.full_like(indices, level))
        boxes, scores, ids = torch.cat(level_boxes), torch.cat(level_scores), torch.cat(level_ids)
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        boxes = clip_rotated_boxes(boxes, image_sizes[image])
        valid = (finite & nonempty_rotated_boxes(boxes, min_box_size)).nonzero()[:, 0]
        boxes, scores, ids = boxes[valid], scores[valid], ids[valid]
        keep = batched_nms_rotated(boxes, scores, ids, nms_threshold)[:post_nms_topk]
        results.append((boxes[keep], scores[keep]))
    return results


def require_smooth_l1(loss_type: str, key: str) -> None:
    """Raise ConfigError unless the loss of the configuration's ``key`` is defined for rotated boxes."""
    if loss_type != "smooth_l1":
        raise ConfigError(
            "this box loss is not defined for rotated boxes",
            got=f"{key}: {loss_type}",
            expected="smooth_l1",
            remedy=f"set {key}: smooth_l1",
        )
