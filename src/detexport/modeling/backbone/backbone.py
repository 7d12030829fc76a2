"""Base class of backbones."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling.graph_segment import BATCH, NamedMaps, Segment, declared_segments, maps, not_cut


class Backbone(nn.Module):
    """A network from an image to feature maps by name.

    A subclass defines ``forward`` and ``output_shape``; instead of the latter it may set ``_out_features``,
    ``_out_feature_channels`` and ``_out_feature_strides``. Images are padded to a multiple of
    ``size_divisibility`` px; 0 means no padding.
    """

    if TYPE_CHECKING:
        _out_features: Any
        _out_feature_channels: Any
        _out_feature_strides: Any

    size_divisibility: int = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return feature maps (N, C', H / stride, W / stride) by name for images (N, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    @torch.jit.unused  # type: ignore[prop-decorator]
    @property
    def padding_constraints(self) -> dict[str, int]:
        """Constraints on the padding of images: ``size_divisibility``, if it is given here, in px."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map by name."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def size_divisibility_of(backbone: Any) -> int:
    """Return the number of px, of which multiples images are padded to for a backbone; 0 for no padding.

    Raises:
        ConfigError: the backbone needs square images.
    """
    constraints = getattr(backbone, "padding_constraints", {})
    if constraints.get("square_size", 0) > 0:
        raise ConfigError(
            "images are not padded to squares",
            got=f"{type(backbone).__name__}.padding_constraints={constraints}",
            expected="size_divisibility alone",
        )
    return constraints.get("size_divisibility", backbone.size_divisibility)


def backbone_segments(backbone: Any) -> list[Segment]:
    """Return the segments that a backbone declares, or one segment for all of it."""
    return declared_segments(backbone) or [whole_network("backbone", "the backbone", backbone)]


def whole_network(name: str, role: str, network: Any) -> Segment:
    """Return one segment for a network from the batch to its feature maps."""
    levels = list(network.output_shape())
    return Segment(name, NamedMaps(network, levels), BATCH, maps(*levels), note=not_cut(role, network))
