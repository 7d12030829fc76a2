"""ROI heads of rotated boxes: a box head whose regions and detections are rotated.

Shapes: R proposals of an image, K classes, D detections of an image.
"""

from typing import Any, Tuple

import torch
from torch import Tensor

from detexport.config import configurable
from detexport.errors import ConfigError
from detexport.layers import batched_nms_rotated
from detexport.modeling.box_regression import Box2BoxTransformRotated, apply_rotated_deltas
from detexport.modeling.proposal_generator.rrpn import require_smooth_l1
from detexport.modeling.registries import ROI_HEADS_REGISTRY
from detexport.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detexport.modeling.roi_heads.standard import StandardROIHeads
from detexport.structures import Instances, RotatedBoxes
from detexport.structures.rotated_boxes import clip_rotated_boxes


def select_rotated_detections(
    boxes: Tensor,
    scores: Tensor,
    image_size: Tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Select detections as ``select_detections`` does, and return the index of each one's proposal.

    Args:
        boxes: (R, K, 5), or (R, 1, 5) if class-agnostic.
        scores: (R, K), without the background.
        image_size: height and width in px; boxes that are nearly horizontal are clipped to it.
        score_threshold: lower bound of the scores, exclusive.
        nms_threshold: IoU threshold of NMS.
        max_detections: upper bound of D; -1 for none.

    Returns:
        (D, 5) boxes, (D,) scores in descending order, (D,) int64 classes, (D,) index of each one's proposal.
    """
    boxes_per_proposal = boxes.shape[1]
    finite = torch.isfinite(scores).all(dim=1) & torch.isfinite(boxes.flatten(1)).all(dim=1)
    flat = clip_rotated_boxes(boxes.reshape(-1, 5), image_size)
    found = (finite[:, None] & (scores > score_threshold)).nonzero()
    proposals, classes = found[:, 0], found[:, 1]
    columns = torch.zeros_like(classes) if boxes_per_proposal == 1 else classes
    chosen = flat[proposals * boxes_per_proposal + columns]
    chosen_scores = scores[proposals, classes]
    keep = batched_nms_rotated(chosen, chosen_scores, classes, nms_threshold)
    if max_detections >= 0:
        keep = keep[:max_detections]
    return chosen[keep], chosen_scores[keep], classes[keep], proposals[keep]


def fast_rcnn_inference_rotated(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Select the detections of each image: see ``select_rotated_detections``.

    Args:
        boxes: (R, 5 or K * 5) of each image.
        scores: (R, K + 1) of each image, the background last.
        image_shapes: height and width of each image in px.
        score_thresh: lower bound of the scores, exclusive.
        nms_thresh: IoU threshold of NMS.
        topk_per_image: upper bound of the number of detections; -1 for none.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes``, and the index (D,) of each detection's proposal, of
        each image.
    """
    instances, proposals = [], []
    for box, score, shape in zip(boxes, scores, image_shapes, strict=True):
        best, best_scores, classes, rows = select_rotated_detections(
            box.reshape(len(box), -1, 5), score[:, :-1], shape, score_thresh, nms_thresh, topk_per_image
        )
        found = Instances(shape, pred_boxes=RotatedBoxes(best), scores=best_scores, pred_classes=classes)
        instances.append(found)
        proposals.append(rows)
    return instances, proposals


class RotatedFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Two linear layers: logits, and deltas of rotated boxes, of each proposal.

    Args:
        *args: see ``FastRCNNOutputLayers``.
        **kwargs: see ``FastRCNNOutputLayers``; ``box2box_transform`` is a ``Box2BoxTransformRotated``.
    """

    transform_type = Box2BoxTransformRotated
    box_dim = 5
    select_all = staticmethod(fast_rcnn_inference_rotated)

    @configurable
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_smooth_l1(self.box_reg_loss_type, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE")

    def decode(self, deltas: Tensor, proposals: Tensor) -> Tensor:
        """Decode deltas (R, 5 or K * 5) of proposals (R, 5) to rotated boxes (R, 5 or K * 5)."""
        if not torch.jit.is_scripting() and len(self.box_weights) == 0:
            return self.box2box_transform.apply_deltas(deltas, proposals)
        return apply_rotated_deltas(deltas, proposals, self.box_weights)

    def select(
        self,
        boxes: Tensor,
        scores: Tensor,
        image_size: Tuple[int, int],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Select one image's detections from decoded boxes and scores: see ``select_rotated_detections``."""
        chosen, chosen_scores, classes, _ = select_rotated_detections(
            boxes.reshape(boxes.shape[0], boxes.shape[1] // 5, 5),
            scores,
            image_size,
            self.score_threshold,
            self.nms_threshold,
            self.max_detections,
        )
        return chosen, chosen_scores, classes


@ROI_HEADS_REGISTRY.register()
class RROIHeads(StandardROIHeads):
    """A box head of rotated boxes, without masks and keypoints.

    Args:
        **kwargs: see ``StandardROIHeads``; the pooler pools rotated boxes.
    """

    box_dim = 5
    box_predictor_type = RotatedFastRCNNOutputLayers

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.mask_on or self.keypoint_on or self.train_on_pred_boxes:
            raise ConfigError(
                "RROIHeads supports only a box head, trained on proposals",
                got=f"masks: {self.mask_on}, keypoints: {self.keypoint_on}, "
                f"train_on_pred_boxes: {self.train_on_pred_boxes}",
                expected="MODEL.MASK_ON, MODEL.KEYPOINT_ON and MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES: False",
                remedy="set the three to False",
            )
