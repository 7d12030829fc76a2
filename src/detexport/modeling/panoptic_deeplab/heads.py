"""Heads of Panoptic-DeepLab: classes of pixels; centres of instances and the offsets of pixels from them.

Shapes: N images, K classes.
"""

from collections.abc import Sequence
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.layers import ShapeSpec
from detexport.modeling.deeplab.loss import deeplab_loss
from detexport.modeling.deeplab.sem_seg_head import (
    Decoder,
    DeepLabV3PlusHead,
    decoder_options,
    head_convs,
    loss_options,
    predictor,
)
from detexport.modeling.graph_segment import Segment
from detexport.modeling.meta_arch.semantic_seg import pad_targets, upsampled_segments
from detexport.modeling.registries import SEM_SEG_HEADS_REGISTRY, Registry

INS_EMBED_BRANCHES_REGISTRY = Registry("instance embedding head", "MODEL.INS_EMBED_HEAD.NAME")


def build_ins_embed_branch(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.INS_EMBED_HEAD.NAME`` for feature maps of these shapes."""
    return INS_EMBED_BRANCHES_REGISTRY.build(cfg, input_shape)


@SEM_SEG_HEADS_REGISTRY.register()
class PanopticDeepLabSemSegHead(DeepLabV3PlusHead):
    """A decoder of DeepLab, two more convolutions, and a predictor of the classes.

    Args:
        input_shape: feature maps by name.
        decoder_channels: channels of each level of the decoder.
        norm: name of the normalization.
        head_channels: channels before the predictor.
        loss_weight: weight of the loss.
        loss_type: ``"cross_entropy"`` or ``"hard_pixel_mining"``: see ``deeplab_loss``.
        loss_top_k: fraction of the pixels in the loss ``"hard_pixel_mining"``.
        ignore_value: label of ignored pixels.
        num_classes: K.
        use_depthwise_separable_conv: use depthwise separable convolutions.
        **decoder: see ``DeepLabV3PlusHead``.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        decoder_channels: Sequence[int],
        norm: Any,
        head_channels: int,
        loss_weight: float,
        loss_type: str,
        loss_top_k: float,
        ignore_value: int,
        num_classes: int,
        use_depthwise_separable_conv: bool = False,
        **decoder: Any,
    ) -> None:
        super().__init__(
            input_shape,
            decoder_channels=decoder_channels,
            norm=norm,
            ignore_value=ignore_value,
            loss_weight=loss_weight,
            loss_type=loss_type,
            use_depthwise_separable_conv=use_depthwise_separable_conv,
            **decoder,
        )
        self.num_classes = num_classes
        self.loss_top_k = loss_top_k
        self.head = head_convs(decoder_channels[0], head_channels, norm, use_depthwise_separable_conv)
        self.predictor = predictor(head_channels, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            **decoder_options(cfg, node, input_shape),
            **loss_options(cfg),
            "head_channels": node.HEAD_CHANNELS,
            "loss_top_k": node.LOSS_TOP_K,
        }

    def layers(self, features: Dict[str, Tensor]) -> Tensor:
        """Return logits (N, K, H, W) at the common stride, for feature maps by name."""
        return self.predictor(self.head(self.decoder(features)))

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return two segments: the layers and the upsampling of their logits."""
        return upsampled_segments(self, self.decoder.feature_names)

    @torch.jit.unused
    def weighted_losses(
        self, features: dict[str, Tensor], targets: list[Tensor], weights: list[Tensor] | None
    ) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg``.

        Args:
            features: feature maps by name.
            targets: (H, W) class of each image's pixels.
            weights: (H, W) weight of each image's pixels; None for equal weights.
        """
        logits = self.upsample(self.layers(features))
        target = pad_targets(targets, logits.shape[2], logits.shape[3], self.ignore_value)
        of_pixels = None if weights is None else pad_maps(weights, logits)
        loss = deeplab_loss(logits, target, self.loss_type, self.ignore_value, self.loss_top_k, of_pixels)
        return {"loss_sem_seg": loss * self.loss_weight}


@INS_EMBED_BRANCHES_REGISTRY.register()
class PanopticDeepLabInsEmbedHead(nn.Module):
    """A decoder of DeepLab, and from it a heatmap of the instances' centres and the offset of each pixel.

    Args:
        input_shape: feature maps by name.
        decoder_channels: channels of each level of the decoder.
        common_stride: stride of the finest feature map in px.
        norm: name of the normalization.
        head_channels: channels before the predictors.
        center_loss_weight: weight of the loss of the heatmap.
        offset_loss_weight: weight of the loss of the offsets.
        use_depthwise_separable_conv: use depthwise separable convolutions, except for the heatmap.
        **decoder: see ``Decoder``.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        decoder_channels: Sequence[int],
        common_stride: int,
        norm: Any,
        head_channels: int,
        center_loss_weight: float,
        offset_loss_weight: float,
        use_depthwise_separable_conv: bool = False,
        **decoder: Any,
    ) -> None:
        super().__init__()
        self.common_stride = common_stride
        self.center_loss_weight = center_loss_weight
        self.offset_loss_weight = offset_loss_weight
        separable, channels = use_depthwise_separable_conv, decoder_channels[0]
        self.decoder = Decoder(
            input_shape,
            decoder_channels=decoder_channels,
            norm=norm,
            use_depthwise_separable_conv=separable,
            **decoder,
        )
        self.center_head = head_convs(channels, head_channels, norm, separable=False)
        self.center_predictor = predictor(head_channels, 1)
        self.offset_head = head_convs(channels, head_channels, norm, separable)
        self.offset_predictor = predictor(head_channels, 2)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.INS_EMBED_HEAD
        return {
            **decoder_options(cfg, node, input_shape),
            "head_channels": node.HEAD_CHANNELS,
            "center_loss_weight": node.CENTER_LOSS_WEIGHT,
            "offset_loss_weight": node.OFFSET_LOSS_WEIGHT,
            "use_depthwise_separable_conv": cfg.MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV,
        }

    def forward(self, features: Dict[str, Tensor]) -> Tuple[Tensor, Tensor]:
        """Return heatmaps (N, 1, H, W) and offsets (N, 2, H, W), y and x in px, over the padded images."""
        center, offset = self.layers(features)
        return self.upsample(center), self.upsample(offset) * self.common_stride

    def layers(self, features: Dict[str, Tensor]) -> Tuple[Tensor, Tensor]:
        """Return heatmaps (N, 1, H, W) and offsets (N, 2, H, W) in strides, at the common stride."""
        level = self.decoder(features)
        center = self.center_predictor(self.center_head(level))
        return center, self.offset_predictor(self.offset_head(level))

    def upsample(self, maps: Tensor) -> Tensor:
        """Upsample maps (N, C, H, W) from the common stride to the padded images."""
        return F.interpolate(
            maps, scale_factor=float(self.common_stride), mode="bilinear", align_corners=False
        )

    @torch.jit.unused
    def losses(
        self,
        features: dict[str, Tensor],
        center_targets: list[Tensor],
        center_weights: list[Tensor],
        offset_targets: list[Tensor],
        offset_weights: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute ``loss_center``, a mean squared error, and ``loss_offset``, a mean absolute error in px.

        Args:
            features: feature maps by name.
            center_targets: (H, W) or (1, H, W) heatmap of each image.
            center_weights: (H, W) weight of each pixel of the heatmap.
            offset_targets: (2, H, W) offset of each image's pixels, y and x in px.
            offset_weights: (H, W) or (1, H, W) weight of each pixel's offset.
        """
        center, offset = self(features)
        heat_error = (center - pad_maps(center_targets, center)[:, None]) ** 2
        offset_error = (offset - pad_maps(offset_targets, offset)).abs()
        return {
            "loss_center": _weighted_mean(heat_error, center_weights) * self.center_loss_weight,
            "loss_offset": _weighted_mean(offset_error, offset_weights) * self.offset_loss_weight,
        }


def _weighted_mean(error: Tensor, weights: list[Tensor]) -> Tensor:
    of_pixels = pad_maps(weights, error)[:, None]
    # Without a weight the sum is 0, too.
    return (error * of_pixels).sum() / of_pixels.sum().clamp(min=1e-12)


def pad_maps(maps: list[Tensor], like: Tensor) -> Tensor:
    """Pad a map (H, W), (1, H, W) or (2, H, W) of each image with zeros to the height and width of ``like``.

    Returns:
        (N, H, W) or (N, 2, H, W) of the dtype of ``like``.
    """
    height, width = like.shape[-2:]
    one_channel: List[Tensor] = [part[0] if part.dim() == 3 and len(part) == 1 else part for part in maps]
    return torch.stack(
        [F.pad(part, [0, width - part.shape[-1], 0, height - part.shape[-2]]) for part in one_channel]
    ).to(like)
