"""torchvision's backbones: shapes of their feature maps, and their segments."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, List

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet
from torchvision.ops import FeaturePyramidNetwork

from detexport.modeling.graph_segment import BATCH, Layers, Port, Segment, by_name, maps, not_cut


def feature_shapes(backbone: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the feature maps of an image of ``size`` (height, width), without computing."""
    state = {name: tensor.to("meta") for name, tensor in backbone.state_dict().items()}
    # Two images: batch normalization in training rejects one value per channel.
    images = torch.empty(2, 3, *size, device="meta")
    with torch.no_grad():
        features = torch.func.functional_call(backbone, state, (images,))
    return {name: (1, *feature.shape[1:]) for name, feature in features.items()}


def level_names(count: int) -> list[str]:
    """Return the names of the levels in segments; torchvision's own names depend on the backbone."""
    return [f"level{index}" for index in range(count)]


class _Levels(nn.Module):
    """batch -> levels."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return list(self.backbone(tensors[0]).values())


class _Pyramid(nn.Module):
    """stages -> levels."""

    def __init__(self, fpn: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.fpn: Any = fpn
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return list(self.fpn(by_name(tensors, self.names)).values())


def whole_backbone(backbone: nn.Module, batch: Port, levels: tuple[Port, ...]) -> list[Segment]:
    """Return a backbone as one segment."""
    return [Segment("backbone", _Levels(backbone), (batch,), levels, note=not_cut("the backbone", backbone))]


def pyramid_segments(backbone: Any, levels: tuple[Port, ...]) -> list[Segment]:
    """Return a segment per block of the body and one for the pyramid, or one segment for an unknown backbone.

    Args:
        backbone: backbone of a model for images of any size.
        levels: its outputs.
    """
    known = (BackboneWithFPN, IntermediateLayerGetter, FeaturePyramidNetwork)
    found = tuple(type(getattr(backbone, name, None)) for name in ("body", "fpn"))
    if (type(backbone), *found) != known:
        return whole_backbone(backbone, BATCH[0], levels)
    body, before = backbone.body, BATCH
    segments: list[Segment] = []
    stages: list[Port] = []

    def block(item: tuple[str, nn.Module]) -> str:
        """Return the group of a layer: its own for a block, a common one for adjacent layers of the stem."""
        name, layer = item
        return name if name in body.return_layers or any(layer.children()) else ""

    for _, layers in groupby(body.items(), block):
        names, modules = zip(*layers, strict=True)
        name = "stem" if len(names) > 1 and not stages else names[-1]
        name = f"stage{name}" if name.isdigit() else name
        segments.append(Segment(name, Layers(nn.Sequential(*modules)), before, maps(name)))
        before = maps(name)
        if names[-1] in body.return_layers:
            stages += before
    pyramid = _Pyramid(backbone.fpn, list(body.return_layers.values()))
    return [*segments, Segment("fpn", pyramid, tuple(stages), levels)]


def block_segments(backbone: Any, batch: Port, levels: tuple[Port, ...]) -> list[Segment]:
    """Return a segment per block of SSDlite's backbone, or one segment for another backbone.

    Args:
        backbone: backbone of a model for images of one size; each block of SSDlite's outputs a level.
        batch: its input.
        levels: its outputs.
    """
    if type(backbone) is not SSDLiteFeatureExtractorMobileNet:
        return whole_backbone(backbone, batch, levels)
    blocks = [*backbone.features, *backbone.extra]
    return [
        Segment(level.name, Layers(block), (before,), (level,))
        for before, level, block in zip([batch, *levels], levels, blocks, strict=False)
    ]
