"""Base class of backbones."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.blocks import freeze
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
        """Padding of images in px: ``size_divisibility`` and ``square_size``; by default no constraints."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map by name."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def require_stages(
    names: Iterable[str], known: Iterable[str], network: str, option: str = "out_features"
) -> None:
    """Check that a network has the stages whose outputs an option asks for.

    Raises:
        ConfigError: it lacks one.
    """
    known = list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"unknown stages of {network}",
            got=f"{option}: {unknown}",
            expected=f"some of {', '.join(known)}",
            remedy=f"correct {option}",
        )


def freeze_stages(network: nn.Module, stages: Sequence[str], freeze_at: int) -> None:
    """Freeze the first ``freeze_at`` of the stages, with their batch normalizations."""
    for name in stages[: max(freeze_at, 0)]:
        freeze(getattr(network, name))


def padding_of(backbone: Any) -> dict[str, Any]:
    """Return the arguments of ``ImageModel`` for the padding that a backbone needs."""
    constraints = getattr(backbone, "padding_constraints", {})
    return {
        "size_divisibility": constraints.get("size_divisibility", backbone.size_divisibility),
        "square_pad": constraints.get("square_size", 0),
    }


def backbone_segments(backbone: Any) -> list[Segment]:
    """Return the segments that a backbone declares, or one segment for all of it."""
    return declared_segments(backbone) or [whole_network("backbone", "the backbone", backbone)]


def whole_network(name: str, role: str, network: Any) -> Segment:
    """Return one segment for a network from the batch to its feature maps."""
    levels = list(network.output_shape())
    return Segment(name, NamedMaps(network, levels), BATCH, maps(*levels), note=not_cut(role, network))
