"""Feature pyramid network (Lin et al. 2017).

Shapes: ``p{k}`` is (N, C, H/2**k, W/2**k); C is the same for every k.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec, get_norm
from detexport.layers.conv import Conv2d, init_xavier, shapes_of
from detexport.modeling.backbone.backbone import Backbone, whole_network
from detexport.modeling.backbone.resnet import ResNet, build_resnet_backbone
from detexport.modeling.graph_segment import (
    NamedMaps,
    Port,
    Segment,
    declared_segments,
    maps,
    own_methods,
)
from detexport.modeling.registries import BACKBONE_REGISTRY


class LastLevelMaxPool(nn.Module):
    """p6 for the RPN: p5, subsampled by 2."""

    in_feature = "p5"
    num_levels = 1

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return p6 by name, for p5."""
        return {"p6": F.max_pool2d(x, kernel_size=1, stride=2, padding=0)}


class LastLevelP6P7(nn.Module):
    """p6 and p7 for RetinaNet: strided convolutions over res5 or p5, with a ReLU between them.

    Args:
        in_channels: channels of ``in_feature``.
        out_channels: channels of both levels.
        in_feature: the map that they are computed from.
    """

    in_feature = "res5"
    num_levels = 2

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        super().__init__()
        if in_feature != type(self).in_feature:
            self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            init_xavier(conv)

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return p6 and p7 by name, for res5."""
        p6 = self.p6(x)
        return {"p6": p6, "p7": self.p7(F.relu(p6))}


class FPN(Backbone):
    """A feature pyramid over the stages of a bottom-up network.

    Each level is an attribute: scripting cannot look up a module by name. The attributes' names
    (``fpn_lateral2`` ...) are those of detectron2's checkpoints.

    Args:
        bottom_up: network with the outputs ``in_features``, at strides 4, 8, 16, 32 or the last of these.
        in_features: names of its outputs, from fine to coarse.
        out_channels: channels of every level.
        norm: name of the normalization.
        top_block: computes the levels above the last from its ``in_feature``.
        fuse_type: ``"sum"``, or ``"avg"``, which halves the sum.
        square_pad: images are padded to a square of this side in px, before they are padded to a multiple of
            the stride of the last level of ``bottom_up``; 0 for none.
    """

    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        fpn_lateral2: Any
        fpn_lateral3: Any
        fpn_lateral4: Any
        fpn_lateral5: Any
        fpn_output2: Any
        fpn_output3: Any
        fpn_output4: Any
        fpn_output5: Any

    def __init__(
        self,
        bottom_up: Any,
        in_features: Sequence[str],
        out_channels: int,
        norm: str | Callable[[int], nn.Module] = "",
        top_block: Any = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ) -> None:
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ConfigError(
                "unknown MODEL.FPN.FUSE_TYPE",
                got=fuse_type,
                expected="sum or avg",
                remedy="correct MODEL.FPN.FUSE_TYPE",
            )
        shapes = bottom_up.output_shape()
        strides = [spec.stride for spec in shapes_of(shapes, in_features, "MODEL.FPN.IN_FEATURES")]
        if any(fine * 2 != coarse for fine, coarse in pairwise(strides)):
            raise ConfigError(
                "the strides of a feature pyramid must double from one level to the next",
                got=f"MODEL.FPN.IN_FEATURES with the strides {strides}",
                expected="strides such as 4, 8, 16, 32",
                remedy="name neighbouring stages in MODEL.FPN.IN_FEATURES, such as res2, res3, res4, res5",
            )
        self.out_channels = out_channels
        self.halve = fuse_type == "avg"
        self.in_names = {2: "", 3: "", 4: "", 5: ""}
        for level in self.in_names:
            self.add_module(f"fpn_lateral{level}", None)
            self.add_module(f"fpn_output{level}", None)
        for name in in_features:
            level = int(math.log2(shapes[name].stride))
            if level not in self.in_names:
                raise ConfigError(
                    "the stride of a pyramid level must be 4 to 32",
                    got=f"{name}: {shapes[name].stride}",
                    expected="4, 8, 16 or 32",
                    remedy="name other stages in MODEL.FPN.IN_FEATURES",
                )
            self.in_names[level] = name
            lateral = Conv2d(shapes[name].channels, out_channels, 1, norm=get_norm(norm, out_channels))
            output = Conv2d(out_channels, out_channels, 3, padding=1, norm=get_norm(norm, out_channels))
            for conv in (lateral, output):
                init_xavier(conv)
            setattr(self, f"fpn_lateral{level}", lateral)
            setattr(self, f"fpn_output{level}", output)
        if top_block is not None and level != 5:
            raise ConfigError(
                "the top block extends a pyramid that ends at p5",
                got=f"MODEL.FPN.IN_FEATURES up to p{level}",
                expected="features up to p5",
                remedy="end MODEL.FPN.IN_FEATURES with res5, or choose an FPN without a top block",
            )
        self.bottom_up = bottom_up
        self.top_block = top_block
        self.top_feature: str = "" if top_block is None else top_block.in_feature
        self._levels = [level for level, name in self.in_names.items() if name]
        # Images are padded to a multiple of the stride of the last bottom-up level.
        self.size_divisibility = 2 ** self._levels[-1]
        # An empty dict is left out of a scripted artifact.
        self._padding_constraints = {"square_size": square_pad} if square_pad else {}

    @torch.jit.unused  # type: ignore[prop-decorator]
    @property
    def padding_constraints(self) -> dict[str, int]:
        """Return the side of the padded images, if it is fixed."""
        return self._padding_constraints

    def _fuse(self, lateral: Tensor, above: Optional[Tensor]) -> Tensor:
        if above is None:
            return lateral
        fused = lateral.add_(F.interpolate(above, size=lateral.shape[-2:], mode="nearest"))
        return fused / 2 if self.halve else fused

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return the levels of the pyramid by name, from fine to coarse, for images (N, C, H, W)."""
        features = self.bottom_up(x)
        outputs: Dict[str, Tensor] = {}
        above: Optional[Tensor] = None
        if self.fpn_lateral5 is not None and self.fpn_output5 is not None:
            above = self._fuse(self.fpn_lateral5(features[self.in_names[5]]), above)
            outputs["p5"] = self.fpn_output5(above)
        if self.fpn_lateral4 is not None and self.fpn_output4 is not None:
            above = self._fuse(self.fpn_lateral4(features[self.in_names[4]]), above)
            outputs["p4"] = self.fpn_output4(above)
        if self.fpn_lateral3 is not None and self.fpn_output3 is not None:
            above = self._fuse(self.fpn_lateral3(features[self.in_names[3]]), above)
            outputs["p3"] = self.fpn_output3(above)
        if self.fpn_lateral2 is not None and self.fpn_output2 is not None:
            above = self._fuse(self.fpn_lateral2(features[self.in_names[2]]), above)
            outputs["p2"] = self.fpn_output2(above)
        if self.top_block is not None:
            source = features if self.top_feature in features else outputs
            outputs.update(self.top_block(source[self.top_feature]))
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each level by name."""
        levels = list(self._levels)
        if self.top_block is not None:
            levels += range(levels[-1] + 1, levels[-1] + 1 + self.top_block.num_levels)
        return {f"p{level}": ShapeSpec(channels=self.out_channels, stride=2**level) for level in levels}

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the bottom-up network, the levels from coarse to fine, the top block."""
        segments = declared_segments(self.bottom_up) or [
            whole_network("bottom_up", "the network under the pyramid", self.bottom_up)
        ]
        above: tuple[Port, ...] = ()
        for level in reversed(self._levels):
            fused = maps(f"fused{level}")
            inputs = (*maps(self.in_names[level]), *above)
            outputs = (*fused, *maps(f"p{level}"))
            segments.append(Segment(f"p{level}", _PyramidLevel(self, level), inputs, outputs))
            above = fused
        if self.top_block is not None:
            top = list(self.output_shape())[len(self._levels) :]
            module = NamedMaps(self.top_block, top)
            segments.append(Segment("+".join(top), module, maps(self.top_feature), maps(*top)))
        return segments


class _PyramidLevel(nn.Module):
    """a stage and the level above, if any -> the fused map and the level."""

    def __init__(self, fpn: Any, level: int) -> None:
        super().__init__()
        self.lateral = getattr(fpn, f"fpn_lateral{level}")
        self.output = getattr(fpn, f"fpn_output{level}")
        self.fpn = own_methods(fpn)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        above: Optional[Tensor] = None
        if len(tensors) > 1:
            above = tensors[1]
        fused = self.fpn._fuse(self.lateral(tensors[0]), above)
        return [fused, self.output(fused)]


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet with a feature pyramid whose p6 is a max pooling of p5."""
    return _pyramid(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet with a feature pyramid whose p6 and p7 are convolutions over res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    (res5,) = shapes_of(bottom_up.output_shape(), ["res5"], "LastLevelP6P7")
    return _pyramid(cfg, bottom_up, LastLevelP6P7(res5.channels, cfg.MODEL.FPN.OUT_CHANNELS))


def _pyramid(cfg: CfgNode, bottom_up: ResNet, top_block: Any) -> FPN:
    return FPN(
        bottom_up,
        tuple(cfg.MODEL.FPN.IN_FEATURES),
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        top_block=top_block,
    )
