"""The smallest model that every export method takes: a detection a bright channel, with heavy weights."""

from typing import Any

import torch
from torch import Tensor, nn

from detexport.contract import DETECTION_OUTPUTS
from tiny_artifacts import FRACTIONS, tiny_contract

CONTRACT = tiny_contract(outputs=DETECTION_OUTPUTS)


class TinyGraph(nn.Module):
    """One image (3, H, W) uint8 -> boxes, scores and classes of the channels that are bright enough."""

    def __init__(self, weights: int = 1) -> None:
        super().__init__()
        self.register_buffer("fractions", torch.from_numpy(FRACTIONS))
        # Random, so that no compression makes it small; it adds nothing.
        self.weight = nn.Parameter(torch.randn(weights))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = (image.float() / 255.0).mean(dim=[1, 2]) + 0.0 * self.weight.sum()
        scores, order = scores.sort(descending=True)
        kept = scores > 0.25  # the contract's; TorchScript takes no globals
        ones = torch.ones_like(image[0])
        height, width = ones[:, 0].sum().float(), ones[0].sum().float()
        boxes = self.fractions * torch.stack([width, height, width, height])
        return boxes[order][kept], scores[kept], order[kept]


class TinyBatchGraph(nn.Module):
    """The same for a list of images, for scripting."""

    def __init__(self, one: TinyGraph) -> None:
        super().__init__()
        self.one = one

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = []
        for image in images:
            boxes, scores, classes = self.one(image)
            found.append({"pred_boxes": boxes, "scores": scores, "pred_classes": classes})
        return found


class TinyModel(TinyGraph):
    """A model as the export methods ask for it."""

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        assert output_names == CONTRACT.output_names
        return _graph_of(self)

    def batch_graph(self) -> Any:
        return TinyBatchGraph(_graph_of(self))


def _graph_of(model: TinyModel) -> TinyGraph:
    graph = TinyGraph(0)
    graph.weight = model.weight
    return graph
