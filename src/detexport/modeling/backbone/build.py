"""Builder of the backbone that a configuration names."""

from typing import Any

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling.registries import BACKBONE_REGISTRY


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Any:
    """Build ``cfg.MODEL.BACKBONE.NAME``.

    Args:
        cfg: a configuration.
        input_shape: channels of the image; by default those of ``PIXEL_MEAN``.

    Raises:
        ConfigError: there is no such backbone, or it does not report the shapes of its feature maps.
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.build(cfg, input_shape)
    if not callable(getattr(backbone, "output_shape", None)):
        raise ConfigError(
            "the backbone does not report the shapes of its feature maps",
            got=f"MODEL.BACKBONE.NAME: {cfg.MODEL.BACKBONE.NAME!r} gives a {type(backbone).__name__}",
            expected="a module with output_shape(), the ShapeSpec of each feature map by name",
            remedy="derive it from detexport.modeling.Backbone",
        )
    return backbone
