"""Mask head (He et al. 2017): pooled features of a detection -> a mask for each class."""

from typing import Any, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError
from detexport.layers import Conv2d, ShapeSpec, get_norm
from detexport.layers.conv import init_conv_msra, init_normal
from detexport.modeling.registries import ROI_MASK_HEAD_REGISTRY
from detexport.modeling.segment import Kind, Port, Segment, declared_segments, not_cut, rows
from detexport.structures import Instances
from detexport.utils.events import record


def build_mask_head(cfg: CfgNode, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.ROI_MASK_HEAD.NAME``.

    Args:
        cfg: the configuration.
        input_shape: pooled features; or, for a head that looks at the feature maps themselves
            (``POOLER_TYPE: ''``), these by name.

    Returns:
        a module with ``masks(features, boxes, classes)``, probabilities (R, S, S) of each detection's own
        class, S its ``resolution``; and ``losses(features, instances)``. ``features`` is a list: the pooled
        features alone, or one feature map a level.
    """
    return ROI_MASK_HEAD_REGISTRY.build(cfg, input_shape)


def class_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits of each box's own class.

    Args:
        logits: (R, K, P), or (R, 1, P) where all classes share a mask.
        classes: (R,) int64.

    Returns:
        (R, P).
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits.gather(1, classes[:, None, None].expand(-1, 1, logits.shape[2]))[:, 0]


def class_masks(logits: Tensor, classes: Tensor) -> Tensor:
    """Probability of each detection's own class: (R, K or 1, S, S) logits, (R,) int64 -> (R, S, S)."""
    if logits.shape[1] == 1:
        return logits[:, 0].sigmoid()
    # Without a change of shape: of no detection at all, ONNX of a trace could not work one out.
    index = classes[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
    return logits.gather(1, index)[:, 0].sigmoid()


def mask_loss(logits: Tensor, instances: list[Instances]) -> Tensor:
    """Mean binary cross entropy between each proposal's mask and the truth in a grid over its box.

    Args:
        logits: (R, K or 1, S, S) of all foreground proposals.
        instances: of each image, with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``.
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
    return F.binary_cross_entropy_with_logits(own, target.to(own.dtype))


def record_mask_accuracy(logits: Tensor, target: Tensor) -> None:
    """Record which part of all cells is right, of the empty ones is set, and of the set ones is missed.

    Args:
        logits: (R, P) of each mask's own class, a cell or point each.
        target: (R, P) bool.
    """
    wrong = (logits > 0) != target
    record("mask_rcnn/accuracy", lambda: 1 - wrong.float().mean())
    record("mask_rcnn/false_positive", lambda: (wrong & ~target).sum() / (~target).sum().clamp(min=1))
    record("mask_rcnn/false_negative", lambda: (wrong & target).sum() / target.sum().clamp(min=1))


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(nn.Sequential):
    """3x3 convolutions, a 2x deconvolution and a 1x1 predictor.

    Args:
        input_shape: pooled features.
        num_classes: masks a detection, 1 where all classes share one.
        conv_dims: channels of ``mask_fcn1``, ``mask_fcn2``, ..., and last of the deconvolution.
        norm: name of the convolutions' normalization.
        loss_weight: factor of the mask loss.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: list[int],
        norm: str = "",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        channels = input_shape.channels
        for index, dim in enumerate(conv_dims[:-1], start=1):
            conv = Conv2d(channels, dim, 3, padding=1, norm=get_norm(norm, dim), relu=True)
            init_conv_msra(conv)
            self.add_module(f"mask_fcn{index}", conv)
            channels = dim
        self.deconv = nn.ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        init_conv_msra(self.deconv)
        self.add_module("deconv_relu", nn.ReLU(inplace=True))
        self.predictor = nn.Conv2d(conv_dims[-1], num_classes, 1)
        init_normal(self.predictor, std=0.001)
        self.loss_weight = loss_weight
        self.resolution = 2 * (input_shape.height or 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments that a configuration says."""
        node = cfg.MODEL.ROI_MASK_HEAD
        if not isinstance(input_shape, ShapeSpec):
            raise ConfigError(
                f"{node.NAME} needs pooled features",
                got=f"MODEL.ROI_MASK_HEAD.POOLER_TYPE: {node.POOLER_TYPE!r}",
                expected="ROIAlignV2, ROIAlign or ROIPool",
            )
        return {
            "input_shape": input_shape,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dims": [node.CONV_DIM] * (node.NUM_CONV + 1),
            "norm": node.NORM,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, K, 2S, 2S) logits."""
        for layer in self:
            x = layer(x)
        return x

    def masks(self, features: List[Tensor], boxes: List[Tensor], classes: Tensor) -> Tensor:
        """See ``build_mask_head``; the boxes say nothing beyond their pooled features."""
        return class_masks(self(features[0]), classes)

    @torch.jit.unused
    def losses(self, features: list[Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        """``loss_mask`` over the foreground proposals: see ``mask_loss``."""
        return {"loss_mask": mask_loss(self(features[0]), instances) * self.loss_weight}

    @torch.jit.unused
    def segments(self, features: tuple[Port, ...]) -> list[Segment]:
        """Return the whole head; it takes the classes only where each has a mask of its own."""
        classes = rows("pred_classes") if self.predictor.out_channels > 1 else ()
        return [Segment("mask_head", _ConvMaskHead(self), (*features, *classes), rows("pred_masks"))]


class _ConvMaskHead(nn.Module):
    """features and, unless all classes share a mask, classes -> a mask in each box.

    An exporter drops an input that nothing is computed from, such as the boxes.
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
    """features, boxes, classes -> a mask in each box, by a mask head of any kind."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.head.masks(tensors[:-2], [tensors[-2]], tensors[-1])]


def mask_head_segments(head: Any, features: tuple[Port, ...], kind: Kind) -> list[Segment]:
    """Return what a mask head declares, or all of it as one segment.

    Args:
        head: see ``build_mask_head``.
        features: what it looks at: pooled features, or the levels.
        kind: how the masks of the whole head are compared.
    """
    inputs = (*features, *rows("pred_boxes", "pred_classes"))
    note = not_cut("the mask head", head)
    whole = Segment("mask_head", _WholeMaskHead(head), inputs, rows("pred_masks"), kind, note)
    return declared_segments(head, features) or [whole]
