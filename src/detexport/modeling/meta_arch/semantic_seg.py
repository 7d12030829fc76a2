"""Semantic segmentation over a feature pyramid (Kirillov et al. 2019, arXiv:1901.02446).

Shapes: N images, K classes.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.contract import Contract, TensorSpec
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec, get_norm
from detexport.layers.conv import Conv2d, init_conv_msra, shapes_of
from detexport.modeling.backbone import backbone_segments, build_backbone, padding_of
from detexport.modeling.graph_segment import (
    IMAGE_PORT,
    Kind,
    Segment,
    by_name,
    declared_segments,
    maps,
    not_cut,
    own_methods,
    raw_outputs,
    size_of,
)
from detexport.modeling.meta_arch.ground_truth import gt_sem_segs_of
from detexport.modeling.meta_arch.image_model import ImageModel, image_options, preprocess_segment
from detexport.modeling.registries import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detexport.structures.model_input import output_size

SEM_SEG = raw_outputs(["sem_seg"])
"""Port of the logits, the output of the graph."""


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """Build ``cfg.MODEL.SEM_SEG_HEAD.NAME`` for feature maps of these shapes.

    Returns:
        A module from feature maps by name to logits (N, K, H, W) over the padded images, with
        ``losses(features, targets)`` and ``num_classes``.
    """
    return SEM_SEG_HEADS_REGISTRY.build(cfg, input_shape)


class SemSegHead(nn.Module):
    """Base class of semantic heads: logits at a common stride, upsampled to the padded image.

    A subclass defines ``layers``; and, for ``diagnose``, ``segments`` by ``upsampled_segments``.

    Args:
        num_classes: K.
        common_stride: stride of the logits of ``layers``, in px.
        ignore_value: label of ignored pixels.
        loss_weight: weight of the loss.
    """

    layers: Any

    def __init__(self, num_classes: int, common_stride: int, ignore_value: int, loss_weight: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.common_stride = common_stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Return logits (N, K, H, W) over the padded images, for feature maps by name."""
        return self.upsample(self.layers(features))

    def upsample(self, logits: Tensor) -> Tensor:
        """Upsample logits (N, K, H, W) from the common stride to the padded images."""
        return F.interpolate(
            logits, scale_factor=float(self.common_stride), mode="bilinear", align_corners=False
        )

    @torch.jit.unused
    def losses(self, features: dict[str, Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg``, as ``pixel_losses`` does.

        Args:
            features: feature maps by name.
            targets: (H, W) class of each image's pixels.
        """
        return self.pixel_losses(self.layers(features), targets)

    @torch.jit.unused
    def pixel_losses(self, logits: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg`` by ``pixel_loss``.

        Args:
            logits: (N, K, H, W) at the common stride.
            targets: (H, W) class of each image's pixels.
        """
        upsampled = self.upsample(logits)
        target = pad_targets(targets, upsampled.shape[2], upsampled.shape[3], self.ignore_value)
        return {"loss_sem_seg": self.pixel_loss(upsampled, target) * self.loss_weight}

    @torch.jit.unused
    def pixel_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross entropy of logits (N, K, H, W) over the pixels that are not ignored."""
        return class_loss(logits, target, self.ignore_value)


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFPNHead(SemSegHead):
    """Convolutions and upsampling of each level to a common stride, then their sum.

    Each level is an attribute, as in ``FPN``: scripting cannot look up a module by name.

    Args:
        input_shape: the levels by name, ``p2`` .. ``p5``, from fine to coarse.
        num_classes: K.
        conv_dims: channels of the convolutions.
        common_stride: stride of the sum, in px.
        loss_weight: weight of the loss.
        norm: name of the normalization; None for none.
        ignore_value: label of ignored pixels.
    """

    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        p2: Any
        p3: Any
        p4: Any
        p5: Any

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm: str | Callable[[int], nn.Module] | None = None,
        ignore_value: int = -1,
    ) -> None:
        super().__init__(num_classes, common_stride, ignore_value, loss_weight)
        for name in ("p2", "p3", "p4", "p5"):
            level = None
            if name in input_shape:
                level = _level(input_shape[name], conv_dims, common_stride, norm)
            self.add_module(name, level)
        self.predictor = Conv2d(conv_dims, num_classes, 1)
        init_conv_msra(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.SEM_SEG_HEAD
        key = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
        shapes = shapes_of(input_shape, node.IN_FEATURES, key)
        others = sorted(set(node.IN_FEATURES) - {"p2", "p3", "p4", "p5"})
        if others:
            raise ConfigError(
                "unsupported levels",
                got=f"{key}: {others}",
                expected="some of p2, p3, p4, p5",
                remedy=f"correct {key}",
            )
        if any(shape.stride < node.COMMON_STRIDE for shape in shapes):
            raise ConfigError(
                "a level is finer than the common stride",
                got=f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE: {node.COMMON_STRIDE}",
                expected=f"at most {min(shape.stride for shape in shapes)}",
                remedy=f"correct it, or leave the finer level out of {key}",
            )
        return {
            "input_shape": dict(zip(node.IN_FEATURES, shapes, strict=True)),
            "num_classes": node.NUM_CLASSES,
            "conv_dims": node.CONVS_DIM,
            "common_stride": node.COMMON_STRIDE,
            "norm": node.NORM,
            "ignore_value": node.IGNORE_VALUE,
            "loss_weight": node.LOSS_WEIGHT,
        }

    def layers(self, features: Dict[str, Tensor]) -> Tensor:
        """Return logits (N, K, H, W) at the common stride, for feature maps by name."""
        parts: List[Tensor] = []
        if self.p2 is not None:
            parts.append(self.p2(features["p2"]))
        if self.p3 is not None:
            parts.append(self.p3(features["p3"]))
        if self.p4 is not None:
            parts.append(self.p4(features["p4"]))
        if self.p5 is not None:
            parts.append(self.p5(features["p5"]))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return self.predictor(total)

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return two segments: the layers and the upsampling of their logits."""
        names = [name for name in ("p2", "p3", "p4", "p5") if getattr(self, name) is not None]
        return upsampled_segments(self, names)


class _SemSegLayers(nn.Module):
    """levels -> logits at the common stride."""

    def __init__(self, head: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.head: Any = head
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.head.layers(by_name(tensors, self.names))]


class _SemSegUpsampling(nn.Module):
    """logits at the common stride, image -> logits of each pixel."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = own_methods(head)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [crop_to_image(self.head.upsample(tensors[0])[0], size_of(tensors[1]))]


class _WholeSemSegHead(nn.Module):
    """levels, image -> logits of each pixel, by any semantic head."""

    def __init__(self, head: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.head: Any = head
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [crop_to_image(self.head(by_name(tensors, self.names))[0], size_of(tensors[-1]))]


def upsampled_segments(head: Any, names: Sequence[str]) -> list[Segment]:
    """Return the segments of a ``SemSegHead``: the layers over the levels ``names``, and the upsampling."""
    logits = maps("sem_seg_logits")
    return [
        Segment("sem_seg_head", _SemSegLayers(head, names), maps(*names), logits),
        Segment("sem_seg_upsampled", _SemSegUpsampling(head), (*logits, IMAGE_PORT), SEM_SEG),
    ]


def sem_seg_segments(head: Any, levels: Sequence[str]) -> list[Segment]:
    """Return the segments that a semantic head declares, or one segment for all of it.

    Args:
        head: see ``build_sem_seg_head``.
        levels: names of the backbone's feature maps.
    """
    inputs = (*maps(*levels), IMAGE_PORT)
    note = not_cut("the semantic head", head)
    whole = Segment("sem_seg_head", _WholeSemSegHead(head, levels), inputs, SEM_SEG, Kind.CHOICES, note)
    return declared_segments(head) or [whole]


def pad_targets(targets: list[Tensor], height: int, width: int, ignore_value: int) -> Tensor:
    """Pad the pixel classes (H, W) of each image to (N, height, width) int64 over the padded images."""
    padded = [
        F.pad(target, [0, width - target.shape[1], 0, height - target.shape[0]], value=ignore_value)
        for target in targets
    ]
    return torch.stack(padded).to(torch.int64)


def class_loss(logits: Tensor, target: Tensor, ignore_value: int) -> Tensor:
    """Return the mean cross entropy of logits (N, K, ...) and classes (N, ...); 0 if all are ignored."""
    loss = F.cross_entropy(logits, target, ignore_index=ignore_value, reduction="sum")
    return loss / (target != ignore_value).sum().clamp(min=1)


def _level(
    shape: ShapeSpec, conv_dims: int, common_stride: int, norm: str | Callable[[int], nn.Module] | None
) -> nn.Sequential:
    """Return layers from a level to the common stride: convolutions, each followed by 2x upsampling."""
    layers: list[nn.Module] = []
    channels = shape.channels
    for _ in range(max(1, int(math.log2(shape.stride / common_stride)))):
        conv = Conv2d(channels, conv_dims, 3, padding=1, norm=get_norm(norm, conv_dims), relu=True)
        init_conv_msra(conv)
        layers.append(conv)
        if shape.stride != common_stride:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        channels = conv_dims
    return nn.Sequential(*layers)


def sem_seg_output(num_classes: int) -> TensorSpec:
    """Return the ``TensorSpec`` of the logits of a graph, in the size of its input image."""
    return TensorSpec(
        "sem_seg", "float32", (num_classes, "H", "W"), "logit of each class at each pixel of the input image"
    )


def crop_to_image(logits: Tensor, image_size: Tuple[int, int]) -> Tensor:
    """Crop logits (K, H', W') over a padded image to (K, H, W) over the image."""
    return logits[:, : image_size[0], : image_size[1]]


def sem_seg_postprocess(logits: Tensor, output_height: int, output_width: int) -> Tensor:
    """Resize logits (K, H, W) over an image to (K, output_height, output_width), bilinear."""
    size = (output_height, output_width)
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


@META_ARCH_REGISTRY.register()
class SemanticSegmentor(ImageModel):
    """A backbone and a semantic head.

    Args:
        backbone: image -> feature maps.
        sem_seg_head: feature maps -> logits over the padded image.
        **image_options: see ``ImageModel``.
    """

    @configurable
    def __init__(self, *, backbone: Any, sem_seg_head: Any, **image_options: Any) -> None:
        super().__init__(**padding_of(backbone), **image_options)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.num_classes: int = sem_seg_head.num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        images = image_options(cfg)
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            **images,
        }

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return the logits of each pixel, or in training the loss.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), values 0..255 in the order of
                ``input_format``; ``height`` and ``width`` of the output in px, by default the image's own;
                in training, ``sem_seg`` (H, W), the class of each pixel.

        Returns:
            One dict per image: ``sem_seg`` (K, height, width) float32. In training ``loss_sem_seg``.

        Raises:
            InputError: an input does not match the description above.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if self.training:
            return self.sem_seg_head.losses(features, gt_sem_segs_of(batched_inputs, self.device))
        logits = self.sem_seg_head(features)
        return [
            {"sem_seg": sem_seg_postprocess(crop_to_image(one, size), *output_size(example))}
            for one, size, example in zip(logits, images.image_sizes, batched_inputs, strict=True)
        ]

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the ``sem_seg`` logits (K, H, W) of each image in its size, as exported.

        Args:
            images: each (C, H, W), values 0..255.
        """
        batch, image_sizes = self.pad_images(
            [self.normalize(image) for image in images], self.size_divisibility
        )
        logits = self.sem_seg_head(self.backbone(batch))
        return [{"sem_seg": crop_to_image(logits[i], size)} for i, size in enumerate(image_sizes)]

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the image, the backbone and the head."""
        return [
            preprocess_segment(self),
            *backbone_segments(self.backbone),
            *sem_seg_segments(self.sem_seg_head, list(self.backbone.output_shape())),
        ]

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract of the exported graph; thresholds of detections do not apply."""
        return self.contract_of(
            (sem_seg_output(self.num_classes),),
            class_names,
            score_threshold=0.0,
            nms_threshold=1.0,
            max_detections=0,
        )
