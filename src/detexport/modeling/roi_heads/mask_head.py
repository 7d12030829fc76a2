"""Mask head (He et al. 2017): pooled features of a detection -> one mask per class."""

from typing import Any, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec, get_norm
from detexport.layers.conv import Conv2d, init_conv_msra, init_normal
from detexport.modeling.graph_segment import Kind, Port, Segment, declared_segments, not_cut, rows
from detexport.modeling.registries import ROI_MASK_HEAD_REGISTRY
from detexport.structures import Instances
from detexport.utils.events import get_event_storage, is_recorded, record

SHOWN_MASKS = 8
"""Masks in an image of a training."""


def build_mask_head(cfg: CfgNode, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.ROI_MASK_HEAD.NAME``.

    Args:
        cfg: the configuration.
        input_shape: shape of the pooled features; or, for a head on feature maps (``POOLER_TYPE: ''``), their
            shapes by name.

    Returns:
        A module with ``masks(features, boxes, classes)``, the probabilities (R, S, S) of each detection's
        class, S its ``resolution``; and ``losses(features, instances)``. ``features`` is a list: either the
        pooled features, or one feature map per level.
    """
    head = ROI_MASK_HEAD_REGISTRY.build(cfg, input_shape)
    own = isinstance(head, BaseMaskRCNNHead) and type(head).layers is not MaskRCNNConvUpsampleHead.layers
    if own and isinstance(input_shape, ShapeSpec):
        head.measure_resolution(input_shape)
    return head


def class_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logits of each box's class.

    Args:
        logits: (R, K, P), or (R, 1, P) if class-agnostic.
        classes: (R,) int64.

    Returns:
        (R, P).
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits.gather(1, classes[:, None, None].expand(-1, 1, logits.shape[2]))[:, 0]


def class_masks(logits: Tensor, classes: Tensor) -> Tensor:
    """Return each detection's probabilities (R, S, S) for logits (R, K or 1, S, S) and classes (R,)."""
    if logits.shape[1] == 1:
        return logits[:, 0].sigmoid()
    # Without a reshape: with no detection, ONNX of a trace cannot infer the new shape.
    index = classes[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
    return logits.gather(1, index)[:, 0].sigmoid()


def mask_loss(logits: Tensor, instances: list[Instances], vis_period: int = 0) -> Tensor:
    """Return the mean binary cross entropy of each proposal's mask and ``gt_masks``, cropped to its box.

    Args:
        logits: (R, K or 1, S, S) of all foreground proposals.
        instances: ``proposal_boxes``, ``gt_classes`` and ``gt_masks`` of each image.
        vis_period: see ``mask_rcnn_loss``.
    """
    if len(logits) == 0:
        return logits.sum() * 0
    classes = torch.cat([image.gt_classes for image in instances])
    target = torch.cat(
        [
            image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, logits.shape[-1])
            for image in instances
            if len(image)
        ]
    )
    own, target = class_logits(logits.flatten(2), classes), target.flatten(1)
    record_mask_accuracy(own, target)
    if is_recorded(vis_period):
        side = logits.shape[-1]
        pairs = [own.detach().sigmoid(), target.to(own.dtype)]
        shown = [part[:SHOWN_MASKS].reshape(-1, side).expand(3, -1, -1) for part in pairs]
        get_event_storage().put_image("training/predicted and true masks", torch.cat(shown, dim=2).cpu())
    return F.binary_cross_entropy_with_logits(own, target.to(own.dtype))


def record_mask_accuracy(logits: Tensor, target: Tensor) -> None:
    """Record the accuracy of the cells, and their false positive and false negative rates.

    Args:
        logits: (R, P) of each mask's class, at cells or points.
        target: (R, P) bool.
    """
    wrong = (logits > 0) != target
    record("mask_rcnn/accuracy", lambda: 1 - wrong.float().mean())
    record("mask_rcnn/false_positive", lambda: (wrong & ~target).sum() / (~target).sum().clamp(min=1))
    record("mask_rcnn/false_negative", lambda: (wrong & target).sum() / target.sum().clamp(min=1))


def mask_rcnn_loss(pred_mask_logits: Tensor, instances: list[Instances], vis_period: int = 0) -> Tensor:
    """Compute the mask loss: see ``mask_loss``.

    Args:
        pred_mask_logits: (R, K or 1, S, S) of all foreground proposals.
        instances: ``proposal_boxes``, ``gt_classes`` and ``gt_masks`` of each image.
        vis_period: iterations between two images of predicted and true masks; 0 for none.
    """
    return mask_loss(pred_mask_logits, instances, vis_period)


def mask_rcnn_inference(pred_mask_logits: Tensor, pred_instances: list[Instances]) -> None:
    """Add ``pred_masks`` (D, 1, S, S), the probabilities of each detection's class, in place.

    Args:
        pred_mask_logits: (sum D, K or 1, S, S).
        pred_instances: with ``pred_classes``, of each image.
    """
    masks = class_masks(pred_mask_logits, torch.cat([one.pred_classes for one in pred_instances]))
    for instances, own in zip(
        pred_instances, masks[:, None].split([len(one) for one in pred_instances]), strict=True
    ):
        instances.pred_masks = own


class BaseMaskRCNNHead(nn.Module):
    """Base class of mask heads of extensions; a subclass adds ``layers``, pooled features -> logits.

    Args:
        loss_weight: weight of the mask loss.
        vis_period: see ``mask_rcnn_loss``.
    """

    layers: Any

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        super().__init__()
        self.vis_period = vis_period
        self.loss_weight = loss_weight
        self.resolution = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x: Tensor, instances: Optional[List[Tensor]] = None) -> Tensor:
        """Return the loss by name in training, else the ``Instances`` with ``pred_masks``.

        Args:
            x: pooled features (R, C, S, S) of all proposals or detections.
            instances: the ``Instances`` of each image; None: return the logits.
        """
        if not torch.jit.is_scripting() and instances is not None:
            return self._with_instances(x, instances)
        return self.layers(x)

    @torch.jit.unused
    def _with_instances(self, x: Tensor, instances: Any) -> Any:
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    def masks(self, features: List[Tensor], boxes: List[Tensor], classes: Tensor) -> Tensor:
        """Return the masks described in ``build_mask_head``; ``boxes`` is not used."""
        return class_masks(self.layers(features[0]), classes)

    @torch.jit.unused
    def losses(self, features: list[Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        """Compute ``loss_mask`` over the foreground proposals: see ``mask_loss``."""
        return {
            "loss_mask": mask_rcnn_loss(self.layers(features[0]), instances, self.vis_period)
            * self.loss_weight
        }

    @torch.jit.unused
    @torch.no_grad()
    def measure_resolution(self, input_shape: ShapeSpec) -> None:
        """Set ``resolution``, the cells per side of a mask, by a run on features of this shape."""
        was_training = self.training
        parameter = next(self.parameters(), torch.zeros(()))
        features = parameter.new_zeros(
            1, input_shape.channels, input_shape.height or 1, input_shape.width or 1
        )
        self.resolution = int(self.eval().layers(features).shape[-1])
        self.train(was_training)


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions, a 2x deconvolution and a 1x1 predictor.

    Args:
        input_shape: shape of the pooled features.
        num_classes: masks per detection; 1 if class-agnostic.
        conv_dims: channels of ``mask_fcn1``, ``mask_fcn2``, ...; the last also of the deconvolution.
        conv_norm: name of the convolutions' normalization.
        **options: see ``BaseMaskRCNNHead``.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: list[int],
        conv_norm: Any = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        channels = input_shape.channels
        for index, dim in enumerate(conv_dims[:-1], start=1):
            conv = Conv2d(channels, dim, 3, padding=1, norm=get_norm(conv_norm, dim), relu=True)
            init_conv_msra(conv)
            self.add_module(f"mask_fcn{index}", conv)
            channels = dim
        self.deconv = nn.ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        init_conv_msra(self.deconv)
        self.add_module("deconv_relu", nn.ReLU(inplace=True))
        self.predictor = nn.Conv2d(conv_dims[-1], num_classes, 1)
        init_normal(self.predictor, std=0.001)
        self.resolution = 2 * (input_shape.height or 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.ROI_MASK_HEAD
        if not isinstance(input_shape, ShapeSpec):
            raise ConfigError(
                f"{node.NAME} needs pooled features",
                got=f"MODEL.ROI_MASK_HEAD.POOLER_TYPE: {node.POOLER_TYPE!r}",
                expected="ROIAlignV2, ROIAlign or ROIPool",
                remedy="correct MODEL.ROI_MASK_HEAD.POOLER_TYPE",
            )
        return super().from_config(cfg, input_shape) | {
            "input_shape": input_shape,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dims": [node.CONV_DIM] * (node.NUM_CONV + 1),
            "conv_norm": node.NORM,
        }

    def layers(self, x: Tensor) -> Tensor:
        """Return the logits (R, K, 2S, 2S) for pooled features (R, C, S, S)."""
        for layer in self:
            x = layer(x)
        return x

    def masks(self, features: List[Tensor], boxes: List[Tensor], classes: Tensor) -> Tensor:
        """Return the masks described in ``build_mask_head``; ``boxes`` is not used."""
        return class_masks(self(features[0]), classes)  # called, so that a trace keeps it as a module

    @torch.jit.unused
    def segments(self, features: tuple[Port, ...]) -> list[Segment]:
        """Return one segment for the head; the classes are an input unless the masks are class-agnostic."""
        classes = rows("pred_classes") if self.predictor.out_channels > 1 else ()
        return [Segment("mask_head", _ConvMaskHead(self), (*features, *classes), rows("pred_masks"))]


class _ConvMaskHead(nn.Module):
    """features and, unless class-agnostic, classes -> the mask of each box.

    The boxes are no input, since an exporter drops an unused input.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        classes = torch.zeros(0, dtype=torch.int64)
        if len(tensors) > 1:
            classes = tensors[1]
        boxes: List[Tensor] = []
        return [self.head.masks([tensors[0]], boxes, classes)]


class _WholeMaskHead(nn.Module):
    """features, boxes, classes -> the mask of each box, by any mask head."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.head.masks(tensors[:-2], [tensors[-2]], tensors[-1])]


def mask_head_segments(head: Any, features: tuple[Port, ...], kind: Kind) -> list[Segment]:
    """Return the segments that a mask head declares, or one segment for all of it.

    Args:
        head: see ``build_mask_head``.
        features: its inputs: pooled features, or the levels.
        kind: comparison of the masks of an undivided head.
    """
    inputs = (*features, *rows("pred_boxes", "pred_classes"))
    note = not_cut("the mask head", head)
    whole = Segment("mask_head", _WholeMaskHead(head), inputs, rows("pred_masks"), kind, note)
    return declared_segments(head, features) or [whole]
