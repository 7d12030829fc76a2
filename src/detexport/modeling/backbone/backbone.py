"""What a backbone is."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from detexport.layers import ShapeSpec
from detexport.modeling.segment import BATCH, NamedMaps, Segment, declared_segments, maps, not_cut


class Backbone(nn.Module):
    """A network from an image to feature maps by name.

    A subclass gives ``forward`` and ``output_shape``, or fills ``_out_features``, ``_out_feature_channels``
    and ``_out_feature_strides`` for the latter. An image is padded to a multiple of ``size_divisibility`` px
    before it; 0 asks for no padding.
    """

    if TYPE_CHECKING:
        _out_features: Any
        _out_feature_channels: Any
        _out_feature_strides: Any

    size_divisibility: int = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> feature maps (N, C', H / stride, W / stride) by name."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def backbone_segments(backbone: Any) -> list[Segment]:
    """Return what a backbone declares of its computation from the batch, or all of it as one segment."""
    return declared_segments(backbone) or [whole_network("backbone", "the backbone", backbone)]


def whole_network(name: str, role: str, network: Any) -> Segment:
    """Return a network from the batch to its feature maps as one segment."""
    levels = list(network.output_shape())
    return Segment(name, NamedMaps(network, levels), BATCH, maps(*levels), note=not_cut(role, network))
