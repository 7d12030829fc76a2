"""PointRend's semantic head: upsample coarse logits and predict the uncertain cells again.

Shapes: N images, K classes, P points per image, C channels.
"""

from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.conv import shapes_of
from detexport.modeling.meta_arch.semantic_seg import class_loss, pad_targets
from detexport.modeling.point_rend.point_head import build_point_head, check_num_classes
from detexport.modeling.point_rend.sampling import PointSampling, cell_centres, point_sampling, sample
from detexport.modeling.registries import SEM_SEG_HEADS_REGISTRY


class PointRendSemSegHead(nn.Module):
    """A semantic head and a point head that refines its logits.

    Args:
        coarse_sem_seg_head: has ``layers``, feature maps -> logits at a common stride, and ``pixel_losses``.
        point_head: predicts the logits of points.
        in_features: names of the feature maps that the point head samples.
        steps: number of subdivision steps; each upsamples by 2.
        num_points: cells that each step predicts again.
        sampling: sampling of points in training.
    """

    def __init__(
        self,
        *,
        coarse_sem_seg_head: Any,
        point_head: Any,
        in_features: tuple[str, ...],
        steps: int,
        num_points: int,
        sampling: PointSampling,
    ) -> None:
        super().__init__()
        self.coarse_sem_seg_head = coarse_sem_seg_head
        self.point_head = point_head
        self.num_classes: int = coarse_sem_seg_head.num_classes
        self.ignore_value: int = coarse_sem_seg_head.ignore_value
        self.in_features: List[str] = list(in_features)
        self.steps = steps
        self.num_points = num_points
        self.sampling = sampling

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Return logits (N, K, H, W) over the padded images, for feature maps by name."""
        coarse = self.coarse_sem_seg_head.layers(features)
        logits = coarse
        for _ in range(self.steps):
            logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
            logits = self.refine(logits, coarse, features)
        return logits

    def refine(self, logits: Tensor, coarse: Tensor, features: Dict[str, Tensor]) -> Tensor:
        """Predict the most uncertain cells of logits (N, K, H, W) again."""
        height, width = logits.shape[2], logits.shape[3]
        # There may be fewer cells than points: the excess is written to padding, which is cut off.
        padded = F.pad(uncertainty(logits.flatten(2)), [0, self.num_points], value=-1e9)
        cells = padded.topk(self.num_points, dim=1).indices
        again = self.point_logits(features, coarse, cell_centres(cells, height, width))
        places = cells[:, None].expand(-1, logits.shape[1], -1)
        flat = F.pad(logits.flatten(2), [0, self.num_points]).scatter(2, places, again)
        return flat[:, :, : height * width].reshape(logits.shape)

    def point_logits(self, features: Dict[str, Tensor], coarse: Tensor, points: Tensor) -> Tensor:
        """Return logits (N, K, P) at points (N, P, 2) of the padded images."""
        fine = torch.cat([sample(features[name], points) for name in self.in_features], dim=1)
        return self.point_head(fine, sample(coarse, points))

    @torch.jit.unused
    def losses(self, features: dict[str, Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg`` of the coarse logits and ``loss_sem_seg_point`` of sampled points.

        Args:
            features: feature maps by name.
            targets: (H, W) class of each image's pixels.
        """
        coarse = self.coarse_sem_seg_head.layers(features)
        losses = self.coarse_sem_seg_head.pixel_losses(coarse, targets)
        points = self.sampling.draw(coarse, uncertainty)
        logits = self.point_logits(features, coarse, points)
        stride = self.coarse_sem_seg_head.common_stride
        padded = pad_targets(targets, stride * coarse.shape[2], stride * coarse.shape[3], self.ignore_value)
        classes = F.grid_sample(
            padded[:, None].to(points.dtype), 2 * points[:, :, None] - 1, mode="nearest", align_corners=False
        )[:, 0, :, 0]
        losses["loss_sem_seg_point"] = class_loss(logits, classes.to(torch.int64), self.ignore_value)
        return losses


def uncertainty(logits: Tensor) -> Tensor:
    """Return the uncertainty (N, P) of logits (N, K, P): second highest less highest logit, at most 0."""
    best = logits.topk(2, dim=1).values
    return best[:, 1] - best[:, 0]


@SEM_SEG_HEADS_REGISTRY.register(name="PointRendSemSegHead")
def build_point_rend_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> PointRendSemSegHead:
    """Build PointRend's semantic head from a configuration."""
    node, key = cfg.MODEL.POINT_HEAD, "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME"
    check_num_classes(cfg, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    _check_options(cfg)
    shapes = shapes_of(input_shape, node.IN_FEATURES, "MODEL.POINT_HEAD.IN_FEATURES")
    coarse = SEM_SEG_HEADS_REGISTRY.get(node.COARSE_SEM_SEG_HEAD_NAME, key)(cfg, input_shape)
    return PointRendSemSegHead(
        coarse_sem_seg_head=coarse,
        point_head=build_point_head(cfg, ShapeSpec(sum(shape.channels for shape in shapes))),
        in_features=tuple(node.IN_FEATURES),
        steps=node.SUBDIVISION_STEPS,
        num_points=node.SUBDIVISION_NUM_POINTS,
        sampling=point_sampling(cfg),
    )


def _check_options(cfg: CfgNode) -> None:
    node, stride = cfg.MODEL.POINT_HEAD, cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
    if stride != 2**node.SUBDIVISION_STEPS:
        raise ConfigError(
            "the subdivision of the semantic logits must end at the size of the image",
            got=f"MODEL.POINT_HEAD.SUBDIVISION_STEPS: {node.SUBDIVISION_STEPS}, "
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE: {stride}",
            expected="a stride of 2 to the power of the steps",
            remedy="correct one of the two",
        )
    if node.NAME == "ImplicitPointHead" or node.CLS_AGNOSTIC_MASK:
        raise ConfigError(
            "unsupported option with PointRendSemSegHead",
            got=f"MODEL.POINT_HEAD.NAME: {node.NAME}, MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK: "
            f"{node.CLS_AGNOSTIC_MASK}",
            expected="StandardPointHead, False",
            remedy="set both as expected",
        )
    if node.COARSE_SEM_SEG_HEAD_NAME == "PointRendSemSegHead":
        raise ConfigError(
            "a semantic head cannot be its own coarse head",
            got="MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME: PointRendSemSegHead",
            expected="another, such as SemSegFPNHead",
            remedy="correct MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME",
        )
