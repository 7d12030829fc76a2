"""Mask head (He et al. 2017): pooled features of a detection -> a mask for each class."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.layers import Conv2d, ShapeSpec, get_norm
from detexport.layers.conv import init_conv_msra, init_normal
from detexport.modeling.registries import ROI_MASK_HEAD_REGISTRY
from detexport.structures import Instances


def build_mask_head(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """Build ``cfg.MODEL.ROI_MASK_HEAD.NAME`` for pooled features of this shape."""
    return ROI_MASK_HEAD_REGISTRY.build(cfg, input_shape)


def class_masks(logits: Tensor, classes: Tensor) -> Tensor:
    """Probability of each detection's own class.

    Args:
        logits: (R, K, S, S), or (R, 1, S, S) where all classes share a mask.
        classes: (R,) int64.

    Returns:
        (R, S, S) in [0, 1].
    """
    if logits.shape[1] == 1:
        return logits[:, 0].sigmoid()
    channel = classes[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
    return logits.gather(1, channel)[:, 0].sigmoid()


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
        init_conv_msra(self.deconv)  # type: ignore[arg-type]
        self.add_module("deconv_relu", nn.ReLU(inplace=True))
        self.predictor = nn.Conv2d(conv_dims[-1], num_classes, 1)
        init_normal(self.predictor, std=0.001)
        self.loss_weight = loss_weight
        self.resolution = 2 * (input_shape.height or 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments that a configuration says."""
        node = cfg.MODEL.ROI_MASK_HEAD
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

    @torch.jit.unused
    def losses(self, logits: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        """``loss_mask`` over the foreground proposals.

        Args:
            logits: (R, K, S, S) of all foreground proposals.
            instances: of each image, with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``.
        """
        if len(logits) == 0:
            return {"loss_mask": logits.sum() * 0}
        classes = torch.cat([image.gt_classes for image in instances])
        target = torch.cat(
            [
                image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, logits.shape[-1])
                for image in instances
                if len(image)
            ]
        )
        if logits.shape[1] > 1:
            logits = logits[torch.arange(len(logits), device=logits.device), classes]
        else:
            logits = logits[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
        return {"loss_mask": loss * self.loss_weight}
