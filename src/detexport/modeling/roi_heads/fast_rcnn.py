"""Box predictor of Fast R-CNN (Girshick 2015): logits and box deltas of each proposal, and their decoding.

Shapes: R proposals of an image, K classes, D detections of an image.
"""

from typing import Any, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec, nms_per_class
from detexport.layers.conv import init_normal
from detexport.modeling.box_regression import Box2BoxTransform, apply_deltas, box_loss_sum, box_loss_type
from detexport.modeling.segment import (
    DETECTIONS,
    IMAGE_PORT,
    PROPOSAL_BOXES,
    Kind,
    Segment,
    own_methods,
    rows,
    size_of,
)
from detexport.structures import Instances
from detexport.structures.boxes import clip_boxes
from detexport.utils.events import has_event_storage, record


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    image_size: Tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Select the detections of one image: apply the score threshold, then NMS per class, then keep the best.

    One proposal may yield detections of several classes. It yields none if one of its values is not finite.

    Args:
        boxes: (R, K, 4), or (R, 1, 4) if class-agnostic; XYXY in px.
        scores: (R, K), without the background.
        image_size: height and width in px; boxes are clipped to it.
        score_threshold: lower bound of the scores, exclusive.
        nms_threshold: IoU threshold of NMS.
        max_detections: upper bound of D; -1 for none.

    Returns:
        (D, 4) boxes, (D,) scores in descending order, (D,) int64 classes.
    """
    boxes_per_proposal = boxes.shape[1]
    flat = boxes.reshape(-1, 4)
    # Per proposal, and before clipping, which would turn an infinite box into a large one.
    finite = torch.isfinite(scores).all(dim=1) & torch.isfinite(boxes.flatten(1)).all(dim=1)
    flat = clip_boxes(flat, image_size)
    found = (finite[:, None] & (scores > score_threshold)).nonzero()
    proposals, classes = found[:, 0], found[:, 1]
    columns = torch.zeros_like(classes) if boxes_per_proposal == 1 else classes
    chosen = flat[proposals * boxes_per_proposal + columns]
    chosen_scores = scores[proposals, classes]
    keep = nms_per_class(chosen, chosen_scores, classes, nms_threshold)
    if max_detections >= 0:
        keep = keep[:max_detections]
    return chosen[keep], chosen_scores[keep], classes[keep]


def record_accuracy(logits: Tensor, classes: Tensor) -> None:
    """Record the classification accuracy of all and of foreground proposals, and the false negative rate.

    Args:
        logits: (R, K + 1), the background last.
        classes: (R,) ``gt_classes``; K is the background.
    """
    if not has_event_storage() or len(classes) == 0:
        return
    background = logits.shape[1] - 1
    found, foreground = logits.argmax(dim=1), classes < background
    record("fast_rcnn/cls_accuracy", lambda: (found == classes).float().mean())
    if foreground.any():
        record("fast_rcnn/fg_cls_accuracy", lambda: (found == classes)[foreground].float().mean())
        record("fast_rcnn/false_negative", lambda: (found == background)[foreground].float().mean())


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers: logits and box deltas of each proposal.

    Args:
        input_shape: shape of the box head's output; a map is flattened.
        box2box_transform: encoding of the box deltas.
        num_classes: K, without the background.
        cls_agnostic_bbox_reg: predict one box for all classes.
        use_sigmoid: scores by sigmoid instead of softmax.
        score_threshold: lower bound of the scores, exclusive.
        nms_threshold: IoU threshold of NMS.
        max_detections: detections per image.
        box_reg_loss_type: ``loss_type`` of ``box_loss_sum``.
        smooth_l1_beta: where the smooth L1 loss becomes linear.
        box_loss_weight: weight of the box loss.
        use_fed_loss: use the federated loss over sampled classes: see ``federated_classes``. It needs
            sigmoid scores, and ``set_class_frequencies`` before training.
        fed_loss_num_classes: number of classes in each loss.
        fed_loss_freq_weight_power: exponent of a class's frequency in its sampling weight.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        cls_agnostic_bbox_reg: bool = False,
        use_sigmoid: bool = False,
        score_threshold: float = 0.0,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        use_fed_loss: bool = False,
        fed_loss_num_classes: int = 50,
        fed_loss_freq_weight_power: float = 0.5,
    ) -> None:
        super().__init__()
        channels = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.box_weights: List[float] = list(box2box_transform.weights)
        self.use_sigmoid = use_sigmoid
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        self.box_loss_weight = box_loss_weight
        self.use_fed_loss = use_fed_loss
        self.fed_loss_num_classes = fed_loss_num_classes
        self.fed_loss_freq_weight_power = fed_loss_freq_weight_power
        self.fed_loss_cls_weights: Tensor | None = None
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * (1 if cls_agnostic_bbox_reg else num_classes))
        init_normal(self.cls_score, std=0.01)
        init_normal(self.bbox_pred, std=0.001)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        if box.USE_FED_LOSS and not box.USE_SIGMOID_CE:
            raise ConfigError(
                "the federated loss needs sigmoid scores",
                got="MODEL.ROI_BOX_HEAD.USE_FED_LOSS: True, MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE: False",
                expected="both, or neither",
            )
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(tuple(box.BBOX_REG_WEIGHTS)),
            "num_classes": heads.NUM_CLASSES,
            "cls_agnostic_bbox_reg": box.CLS_AGNOSTIC_BBOX_REG,
            "use_sigmoid": box.USE_SIGMOID_CE,
            "score_threshold": heads.SCORE_THRESH_TEST,
            "nms_threshold": heads.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": box_loss_type(
                box.BBOX_REG_LOSS_TYPE, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"
            ),
            "smooth_l1_beta": box.SMOOTH_L1_BETA,
            "box_loss_weight": box.BBOX_REG_LOSS_WEIGHT,
            "use_fed_loss": box.USE_FED_LOSS,
            "fed_loss_num_classes": box.FED_LOSS_NUM_CLASSES,
            "fed_loss_freq_weight_power": box.FED_LOSS_FREQ_WEIGHT_POWER,
        }

    @classmethod
    def training_buffers(cls) -> tuple[str, ...]:
        """Return the names of buffers that only training uses; see ``describe_parameters``."""
        return ("fed_loss_cls_weights",)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Return logits (R, K + 1), background last, and box deltas (R, 4 or K * 4) for box features."""
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the scores (R, K), without the background, of logits (R, K + 1)."""
        scores = logits.sigmoid() if self.use_sigmoid else F.softmax(logits, dim=1)
        return scores[:, :-1]

    def decode(self, deltas: Tensor, proposals: Tensor) -> Tensor:
        """Decode box deltas (R, 4 or K * 4) of proposals (R, 4) to boxes (R, 4 or K * 4), XYXY in px."""
        return apply_deltas(deltas, proposals, self.box_weights)

    def select(
        self,
        boxes: Tensor,
        scores: Tensor,
        image_size: Tuple[int, int],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Select one image's detections from decoded boxes and scores (R, K): see ``select_detections``."""
        return select_detections(
            boxes.reshape(boxes.shape[0], boxes.shape[1] // 4, 4),
            scores,
            image_size,
            self.score_threshold,
            self.nms_threshold,
            self.max_detections,
        )

    def detect(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Tensor,
        image_size: Tuple[int, int],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Decode the outputs of one image and select its detections: see ``select_detections``."""
        return self.select(self.decode(deltas, proposals), self.probabilities(logits), image_size)

    @torch.jit.unused
    @torch.no_grad()
    def predict_boxes_for_gt_classes(
        self, outputs: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """Return the box that each proposal predicts for its ``gt_classes``; for background, any class's.

        Args:
            outputs: logits and box deltas of all proposals.
            proposals: ``proposal_boxes`` and ``gt_classes`` of each image.

        Returns:
            one (R, 4) per image, XYXY in px, not clipped.
        """
        classes = torch.cat([instances.gt_classes for instances in proposals])
        boxes = torch.cat([instances.proposal_boxes.tensor for instances in proposals])
        own = self.decode(deltas_of_classes(outputs[1], classes.clamp(max=self.num_classes - 1)), boxes)
        return list(own.split([len(instances) for instances in proposals]))

    @torch.jit.unused
    def losses(self, outputs: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Compute ``loss_cls`` and ``loss_box_reg``.

        Args:
            outputs: logits and box deltas of all proposals.
            proposals: ``proposal_boxes``, ``gt_classes`` (K background) and ``gt_boxes`` of each image.
        """
        logits, deltas = outputs
        classes = torch.cat([instances.gt_classes for instances in proposals])
        boxes = torch.cat([instances.proposal_boxes.tensor for instances in proposals])
        gt_boxes = torch.cat([instances.gt_boxes.tensor for instances in proposals])
        record_accuracy(logits, classes)
        foreground = (classes < self.num_classes).nonzero()[:, 0]
        loss_box = box_loss_sum(
            deltas_of_classes(deltas[foreground], classes[foreground]),
            boxes[foreground],
            gt_boxes[foreground],
            self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return {
            "loss_cls": self.class_loss(logits, classes),
            "loss_box_reg": loss_box / max(len(classes), 1) * self.box_loss_weight,
        }

    @torch.jit.unused
    def set_class_frequencies(self, frequencies: Tensor) -> None:
        """Set the number of training images (K,) that contain each class, for the federated loss."""
        self.fed_loss_cls_weights = frequencies.float() ** self.fed_loss_freq_weight_power

    @torch.jit.unused
    def class_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the mean cross entropy over the proposals; of sigmoid scores, the sum over the classes."""
        if not self.use_sigmoid:
            return F.cross_entropy(logits, classes) if len(classes) else logits.sum() * 0
        target = F.one_hot(classes, self.num_classes + 1)[:, :-1].to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits[:, :-1], target, reduction="none")
        if self.use_fed_loss:
            if self.fed_loss_cls_weights is None:
                raise ConfigError(
                    "the federated loss needs the frequencies of the classes",
                    got="MODEL.ROI_BOX_HEAD.USE_FED_LOSS: True",
                    remedy="call box_predictor.set_class_frequencies before training",
                )
            sampled = federated_classes(classes, self.fed_loss_cls_weights, self.fed_loss_num_classes)
            loss = loss[:, sampled]
        return loss.sum() / max(len(classes), 1)


def deltas_of_classes(deltas: Tensor, classes: Tensor) -> Tensor:
    """Return the box deltas (R, 4) of classes (R,) from (R, K * 4), or from (R, 4) if class-agnostic."""
    per_class = deltas.reshape(len(deltas), deltas.shape[1] // 4, 4)
    if per_class.shape[1] == 1:
        return per_class[:, 0]
    return per_class[torch.arange(len(classes), device=deltas.device), classes]


def federated_classes(classes: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Sample the classes of a federated loss (Zhou et al. 2021, arXiv:2103.07461): all present, and others.

    Args:
        classes: (R,) ``gt_classes``; K is the background.
        weights: (K,) sampling weight of each class.
        num_classes: number of classes, with the background; more if more are present.

    Returns:
        Unique indices of the classes.
    """
    present = classes.unique()
    missing = num_classes - len(present)
    present = present[present < len(weights)]
    absent = weights.to(classes.device).clone()
    absent[present] = 0
    missing = min(missing, int((absent > 0).sum()))
    if missing <= 0:
        return present
    return torch.cat([present, torch.multinomial(absent, missing)])


class BoxInference(nn.Module):
    """A segment's module: selection of the detections."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = own_methods(predictor)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """Return boxes, scores and classes for logits, box deltas, proposals and the image."""
        boxes, scores, classes = self.predictor.detect(
            tensors[0], tensors[1], tensors[2], size_of(tensors[3])
        )
        return [boxes, scores, classes]


def box_inference_segment(inference: nn.Module) -> Segment:
    """Return the segment from the outputs of a box head to the detections."""
    inputs = (*rows("box_logits", "box_deltas"), *PROPOSAL_BOXES, IMAGE_PORT)
    return Segment("box_inference", inference, inputs, DETECTIONS, Kind.DETECTIONS)
