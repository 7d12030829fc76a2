"""A tiny model for the export methods: that of the tiny artifacts, with all kinds of outputs."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detexport.artifact import Artifact
from detexport.contract import DETECTION_OUTPUTS, Contract, keypoint_output, mask_output
from detexport.export import Provenance
from makers import maker
from tiny_artifacts import FRACTIONS, GRID, KEYPOINTS, KINDS, MASKS, SEM_SEG, STUFF, tiny_contract, tiny_image

CONTRACTS = {
    "everything": tiny_contract(
        outputs=(*DETECTION_OUTPUTS, mask_output(GRID), keypoint_output(2), SEM_SEG),
        panoptic=KINDS["panoptic"]["panoptic"],
        **STUFF,
    ),
    "proposals": tiny_contract(**KINDS["proposals"]),
}


class Detect(nn.Module):
    """The tiny artifacts' graph with all kinds of outputs, by name; of three boxes one reaches beyond."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fractions", torch.from_numpy(FRACTIONS))
        self.register_buffer("masks", torch.from_numpy(MASKS))
        self.register_buffer("points", torch.from_numpy(KEYPOINTS))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        values = image.to(torch.float32) / 255.0
        scores, order = values.mean(dim=[1, 2]).sort(descending=True)
        kept = (scores > 0.25).nonzero()[:, 0]
        classes = order[kept]
        ones = torch.ones_like(values[0])
        width, height = ones[0].sum(), ones[:, 0].sum()
        boxes = (self.fractions * torch.stack([width, height, width, height]))[classes]
        return {
            "pred_boxes": boxes,
            "scores": scores[kept],
            "pred_classes": classes,
            "pred_masks": self.masks[classes],
            "pred_keypoints": (self.points * torch.stack([width, height, ones[0, 0]]))[classes],
            "sem_seg": values,
            "proposal_boxes": boxes,
            "objectness_logits": scores[kept],
        }


class Named(nn.Module):
    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.detect = Detect()
        self.names = names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        fields = self.detect(image)
        return tuple(fields[name] for name in self.names)


class Listed(nn.Module):
    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.detect = Detect()
        self.names: list[str] = list(names)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        results: list[dict[str, Tensor]] = []
        for image in images:
            fields = self.detect(image)
            named: dict[str, Tensor] = {}
            for name in self.names:
                named[name] = fields[name]
            results.append(named)
        return results


class TinyModel:
    """What an export method asks of a model."""

    training = False

    def __init__(self, contract: Contract) -> None:
        self.names = contract.output_names

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        return Named(output_names)

    def batch_graph(self) -> nn.Module:
        return Listed(self.names)


class Layered(nn.Module):
    """Detects on the map that three convolutions make of the image."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = zip((3, 8, 8), (8, 8, 3), strict=True)
            self.layers = nn.ModuleList([nn.Conv2d(*size, 3, padding=1) for size in sizes])
        self.detect = Named(names)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        value = image.to(torch.float32)[None] / 255.0
        for layer in self.layers:
            value = layer(value.relu())
        outputs: tuple[Tensor, ...] = self.detect(value[0].sigmoid() * 255.0)
        return outputs


class LayeredModel(TinyModel):
    """A model with layers to quantize."""

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        return Layered(output_names)


def raw_outputs(contract: Contract, image: np.ndarray) -> dict[str, np.ndarray]:
    fields = Detect()(torch.from_numpy(image))
    return {name: fields[name].numpy() for name in contract.output_names}


def write_tiny_pasted(folder: Path, contract: Contract) -> Artifact:
    """A traced artifact whose graph ends in the frame of the wanted output."""
    return maker("tracing", graph_end="pasted").export(
        TinyModel(contract), tiny_image(48, 40), folder, contract=contract, provenance=Provenance("w", "c")
    )
