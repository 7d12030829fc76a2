"""Box predictor of Fast R-CNN (Girshick 2015): logits and box deltas of each proposal, and their decoding.

Shapes: R proposals of an image, K classes, D detections of an image.
"""

from typing import TYPE_CHECKING, Any, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec, nms_per_class
from detexport.layers.alias_of import alias_of
from detexport.layers.conv import init_normal
from detexport.modeling.box_regression import (
    Box2BoxTransform,
    apply_deltas,
    box_loss_sum,
    box_loss_type,
    decoding_weights,
    loss_weights_of,
    weights_of,
)
from detexport.modeling.graph import GraphMethods
from detexport.modeling.graph_segment import (
    DETECTIONS,
    IMAGE_PORT,
    PROPOSAL_BOXES,
    Kind,
    Segment,
    own_methods,
    rows,
    size_of,
)
from detexport.modeling.roi_heads.base import split_by_image
from detexport.structures import Boxes, Instances
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


def fast_rcnn_inference(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Select detections as ``select_detections`` does, and return the index of each one's proposal.

    Args:
        boxes: (R, 4 or K * 4) of each image, XYXY in px.
        scores: (R, K + 1) of each image, the background last.
        image_shapes: height and width of each image in px.
        score_thresh: lower bound of the scores, exclusive.
        nms_thresh: IoU threshold of NMS.
        topk_per_image: upper bound of the number of detections; -1 for none.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes``, and the index (D,) of each detection's proposal, of
        each image.
    """
    instances, kept = [], []
    for box, score, shape in zip(boxes, scores, image_shapes, strict=True):
        per_class, of_classes = box.unflatten(1, (-1, 4)), score[:, :-1]
        finite = per_class.flatten(1).isfinite().all(dim=1) & of_classes.isfinite().all(dim=1)
        rows, classes = (finite[:, None] & (of_classes > score_thresh)).nonzero(as_tuple=True)
        columns = classes if per_class.shape[1] > 1 else torch.zeros_like(classes)
        candidates, their_scores = clip_boxes(per_class[rows, columns], shape), of_classes[rows, classes]
        best = nms_per_class(candidates, their_scores, classes, nms_thresh)
        best = best if topk_per_image < 0 else best[:topk_per_image]
        found = Instances(shape, pred_boxes=Boxes(candidates[best]), scores=their_scores[best])
        found.pred_classes = classes[best]
        instances.append(found)
        kept.append(rows[best])
    return instances, kept


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
        input_shape: shape of the box head's output, or its channels; a map is flattened.
        box2box_transform: encoding of the box deltas.
        num_classes: K, without the background.
        test_score_thresh: lower bound of the scores, exclusive.
        test_nms_thresh: IoU threshold of NMS.
        test_topk_per_image: detections per image.
        cls_agnostic_bbox_reg: predict one box for all classes.
        smooth_l1_beta: where the smooth L1 loss becomes linear.
        box_reg_loss_type: ``loss_type`` of ``box_loss_sum``.
        loss_weight: factor of both losses, or one each for ``loss_cls`` and ``loss_box_reg``.
        use_fed_loss: use the federated loss over sampled classes: see ``federated_classes``. It needs
            sigmoid scores, and ``set_class_frequencies`` before training.
        use_sigmoid_ce: scores by sigmoid instead of softmax.
        fed_loss_num_classes: number of classes in each loss.
        fed_loss_freq_weight_power: exponent of a class's frequency in its sampling weight.
    """

    class_loss_weight = 1.0
    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        transform_type: Any
        select_all: Any
    transform_type = Box2BoxTransform
    box_dim = 4
    select_all = staticmethod(fast_rcnn_inference)
    test_score_thresh = alias_of("score_threshold")
    test_nms_thresh = alias_of("nms_threshold")
    test_topk_per_image = alias_of("max_detections")

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Any,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        fed_loss_num_classes: int = 50,
        fed_loss_freq_weight_power: float = 0.5,
    ) -> None:
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(input_shape)
        channels = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.box_weights: List[float] = decoding_weights(box2box_transform, self.transform_type)
        self.use_sigmoid = use_sigmoid_ce
        self.score_threshold = test_score_thresh
        self.nms_threshold = test_nms_thresh
        self.max_detections = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        class_weight, self.box_loss_weight = loss_weights_of(loss_weight, ("loss_cls", "loss_box_reg"))
        if class_weight != 1.0:  # an attribute would be stored in every scripted artifact
            self.class_loss_weight = class_weight
        self.use_fed_loss = use_fed_loss
        self.fed_loss_num_classes = fed_loss_num_classes
        self.fed_loss_freq_weight_power = fed_loss_freq_weight_power
        self.fed_loss_cls_weights: Tensor | None = None
        self.cls_score = nn.Linear(channels, num_classes + 1)
        box_dim = len(getattr(box2box_transform, "weights", range(self.box_dim)))
        self.bbox_pred = nn.Linear(channels, box_dim * (1 if cls_agnostic_bbox_reg else num_classes))
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
                remedy="set MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE: True, or USE_FED_LOSS: False",
            )
        return {
            "input_shape": input_shape,
            "box2box_transform": cls.transform_type(
                weights_of(box.BBOX_REG_WEIGHTS, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", cls.box_dim)
            ),
            "num_classes": heads.NUM_CLASSES,
            "cls_agnostic_bbox_reg": box.CLS_AGNOSTIC_BBOX_REG,
            "use_sigmoid_ce": box.USE_SIGMOID_CE,
            "test_score_thresh": heads.SCORE_THRESH_TEST,
            "test_nms_thresh": heads.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": box_loss_type(
                box.BBOX_REG_LOSS_TYPE, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"
            ),
            "smooth_l1_beta": box.SMOOTH_L1_BETA,
            "loss_weight": {"loss_box_reg": box.BBOX_REG_LOSS_WEIGHT},
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
        if not torch.jit.is_scripting() and len(self.box_weights) == 0:
            return self.box2box_transform.apply_deltas(deltas, proposals)
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
    def graph_methods(self) -> GraphMethods:
        """Return the documented methods that a graph replaces, each with the method that it calls."""
        return [
            (self, "predict_probs", "probabilities"),
            (self, "predict_boxes", "decode"),
            (self, "inference", "detect"),
        ]

    @torch.jit.unused
    @torch.no_grad()
    def predict_boxes_for_gt_classes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """Return the box that each proposal predicts for its ``gt_classes``; for background, any class's.

        Args:
            predictions: logits and box deltas of all proposals.
            proposals: ``proposal_boxes`` and ``gt_classes`` of each image.

        Returns:
            one (R, 4) per image, XYXY in px, not clipped.
        """
        classes = torch.cat([instances.gt_classes for instances in proposals])
        boxes = torch.cat([instances.proposal_boxes.tensor for instances in proposals])
        own = classes.clamp(max=self.num_classes - 1)
        own = self.decode(deltas_of_classes(predictions[1], own, boxes.shape[1]), boxes)
        return list(own.split([len(instances) for instances in proposals]))

    @torch.jit.unused
    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Compute ``loss_cls`` and ``loss_box_reg``.

        Args:
            predictions: logits and box deltas of all proposals.
            proposals: ``proposal_boxes``, ``gt_classes`` (K background) and ``gt_boxes`` of each image.
        """
        logits, deltas = predictions
        classes = torch.cat([instances.gt_classes for instances in proposals])
        boxes = torch.cat([instances.proposal_boxes.tensor for instances in proposals])
        gt_boxes = torch.cat([instances.gt_boxes.tensor for instances in proposals])
        record_accuracy(logits, classes)
        return {
            "loss_cls": self.class_loss(logits, classes) * self.class_loss_weight,
            "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, classes) * self.box_loss_weight,
        }

    @torch.jit.unused
    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Compute the box loss of the foreground, over the number of all proposals.

        Args:
            proposal_boxes: (R, 4) XYXY in px.
            gt_boxes: (R, 4) XYXY in px.
            pred_deltas: (R, 4 or K * 4).
            gt_classes: (R,), K for the background.
        """
        foreground = (gt_classes < self.num_classes).nonzero()[:, 0]
        loss = box_loss_sum(
            deltas_of_classes(pred_deltas[foreground], gt_classes[foreground], proposal_boxes.shape[1]),
            proposal_boxes[foreground],
            gt_boxes[foreground],
            self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return loss / max(len(gt_classes), 1)

    @torch.jit.unused
    def predict_boxes(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Return the decoded boxes (R, 4 or K * 4) of the proposals of each image, XYXY in px.

        Args:
            predictions: logits and box deltas of all proposals.
            proposals: with ``proposal_boxes``, of each image.
        """
        boxes = [one.proposal_boxes.tensor for one in proposals]
        return split_by_image(self.decode(predictions[1], torch.cat(boxes)), boxes)

    @torch.jit.unused
    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Return the scores (R, K + 1) of the proposals of each image; the last is the background's.

        Args:
            predictions: logits and box deltas of all proposals.
            proposals: with ``proposal_boxes``, of each image.
        """
        logits = predictions[0]
        scores = logits.sigmoid() if self.use_sigmoid else F.softmax(logits, dim=1)
        return split_by_image(scores, [one.proposal_boxes.tensor for one in proposals])

    @torch.jit.unused
    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Select the detections of each image: see ``fast_rcnn_inference``.

        Args:
            predictions: logits and box deltas of all proposals.
            proposals: with ``proposal_boxes``, of each image.
        """
        return self.select_all(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [one.image_size for one in proposals],
            self.score_threshold,
            self.nms_threshold,
            self.max_detections,
        )

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
                    expected="the number of training images of each class",
                    remedy="call box_predictor.set_class_frequencies before training",
                )
            sampled = federated_classes(classes, self.fed_loss_cls_weights, self.fed_loss_num_classes)
            loss = loss[:, sampled]
        return loss.sum() / max(len(classes), 1)


def deltas_of_classes(deltas: Tensor, classes: Tensor, box_dim: int) -> Tensor:
    """Return the box deltas (R, D) of classes (R,) from (R, K * D), or from (R, D) if class-agnostic.

    Args:
        deltas: of each class.
        classes: the chosen ones.
        box_dim: D, 4, or 5 for rotated boxes.
    """
    per_class = deltas.reshape(len(deltas), deltas.shape[1] // box_dim, box_dim)
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


def predictor_methods(predictor: Any) -> GraphMethods:
    """Return the documented methods of any box predictor that a graph replaces."""
    if isinstance(predictor, FastRCNNOutputLayers):
        return predictor.graph_methods()
    return [(predictor, "inference", "detect")]


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
