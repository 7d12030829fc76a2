"""A project for detectron2: ROI heads with a box loss and a mask head of their own."""

import torch
from torch import nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, cat, cross_entropy
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.utils.events import get_event_storage

from .config import add_focal_config


class FocalOutputLayers(FastRCNNOutputLayers):
    """Weights the cross entropy of a proposal by (1 - p)^gamma."""

    @configurable
    def __init__(self, input_shape, *, gamma, **kwargs):
        super().__init__(input_shape, **kwargs)
        self.gamma = gamma

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret["gamma"] = cfg.MODEL.ROI_BOX_HEAD.FOCAL_GAMMA
        return ret

    def losses(self, predictions, proposals):
        scores, _ = predictions
        classes = cat([p.gt_classes for p in proposals], dim=0)
        losses = super().losses(predictions, proposals)
        each = cross_entropy(scores, classes, reduction="none")
        losses["loss_cls"] = ((1 - (-each).exp()) ** self.gamma * each).mean()
        get_event_storage().put_scalar("focal/mean", each.mean().item())
        return losses


@ROI_HEADS_REGISTRY.register()
class FocalROIHeads(StandardROIHeads):
    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictor"] = FocalOutputLayers(cfg, ret["box_head"].output_shape)
        return ret


@ROI_MASK_HEAD_REGISTRY.register()
class ThinMaskHead(BaseMaskRCNNHead, nn.Module):
    @configurable
    def __init__(self, input_shape, *, num_classes, conv_dim, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv2d(input_shape.channels, conv_dim, kernel_size=3, padding=1, activation=F.relu)
        self.up = ConvTranspose2d(conv_dim, conv_dim, kernel_size=2, stride=2)
        self.predictor = Conv2d(conv_dim, num_classes, kernel_size=1)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret.update(
            input_shape=input_shape,
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            conv_dim=cfg.MODEL.ROI_MASK_HEAD.CONV_DIM,
        )
        return ret

    def layers(self, x):
        return self.predictor(torch.relu(self.up(self.conv(x))))


__all__ = ["FocalOutputLayers", "FocalROIHeads", "ThinMaskHead", "add_focal_config"]
