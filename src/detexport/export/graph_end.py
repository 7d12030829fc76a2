"""Where a graph ends: raw, as the model leaves its outputs, or pasted, in the frame of a wanted output.

Pasted means what the eager model's post-processing means: boxes and keypoints scaled, boxes clipped and empty
ones dropped, masks in the output's pixels, maps of classes resized.
"""

from collections.abc import Mapping
from typing import Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.contract import Contract
from detexport.export.method import ExportableModel, SampleInputs
from detexport.layers.mask_ops import paste_masks, paste_masks_at_once
from detexport.structures.boxes import clip_boxes, nonempty_boxes


def image_graph(model: ExportableModel, contract: Contract) -> nn.Module:
    """The module that takes one image, and what else the contract names, and gives the contract's outputs."""
    raw = model.image_graph(contract.output_names).eval()
    return PastedImage(raw, contract).eval() if contract.graph_end == "pasted" else raw


def batch_graph(model: ExportableModel, contract: Contract) -> nn.Module:
    """The scriptable module that takes lists of what ``image_graph`` takes, and gives outputs by field."""
    raw = model.batch_graph().eval()
    return PastedBatch(raw, contract).eval() if contract.graph_end == "pasted" else raw


def example_inputs(sample: SampleInputs, contract: Contract) -> tuple[Tensor, ...]:
    """What a graph of this contract is recorded with.

    An image and, where it is asked for, its own size; or what a sample says of every input by name.
    """
    if isinstance(sample, Mapping):
        return tuple(torch.from_numpy(sample[spec.name]) for spec in contract.inputs)
    image = torch.from_numpy(sample)
    return (image, torch.tensor(image.shape[1:])) if contract.graph_end == "pasted" else (image,)


class PastedImage(nn.Module):
    """One image and the wanted size in, the outputs in that frame out, in the order of the contract.

    Args:
        graph: from one (C, H, W) image to the raw outputs.
        contract: of the pasted graph.
    """

    def __init__(self, graph: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.raw = graph
        self.names = contract.output_names
        self.mask_threshold = contract.mask_threshold

    def forward(self, image: Tensor, output_size: Tensor) -> tuple[Tensor, ...]:
        """(C, H, W) and int64 (2,) height, width -> the outputs that the contract names."""
        fields = dict(zip(self.names, self.raw(image), strict=True))
        placed = place_outputs(fields, image, output_size, self.mask_threshold)
        return tuple(placed[name] for name in self.names)


class PastedBatch(nn.Module):
    """Images of different sizes and the wanted size of each in, the outputs of each out by field.

    Args:
        graph: from a list of images to the raw outputs of each by field.
        contract: of the pasted graph.
    """

    def __init__(self, graph: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.raw = graph
        self.mask_threshold = contract.mask_threshold

    def forward(self, images: List[Tensor], output_sizes: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Each (C, H, W) and int64 (2,) height, width -> its outputs by the contract's names."""
        results: List[Dict[str, Tensor]] = []
        for index, fields in enumerate(self.raw(images)):
            results.append(place_outputs(fields, images[index], output_sizes[index], self.mask_threshold))
        return results


def place_outputs(
    fields: Dict[str, Tensor], image: Tensor, output_size: Tensor, mask_threshold: float
) -> Dict[str, Tensor]:
    """Bring the raw outputs of one image into the frame of an output of another size, in every kind of graph.

    Args:
        fields: raw outputs by name; masks (R, S, S) probabilities.
        image: (C, H, W), whose size is the raw outputs' frame.
        output_size: int64 (2,), height and width in px.
        mask_threshold: a pixel belongs to a mask where its probability is at least this.

    Returns:
        The same fields; ``pred_masks`` (R, height, width) bool, ``sem_seg`` (K, height, width).
    """
    placed: Dict[str, Tensor] = {}
    if "sem_seg" in fields:
        size = [as_side(output_size[0]), as_side(output_size[1])]
        maps = fields["sem_seg"][None]
        placed["sem_seg"] = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]
    for name in ("pred_boxes", "proposal_boxes"):
        if name in fields:
            placed.update(place_rows(fields, name, image, output_size, mask_threshold))
    return placed


def place_rows(
    fields: Dict[str, Tensor], name: str, image: Tensor, output_size: Tensor, mask_threshold: float
) -> Dict[str, Tensor]:
    """The fields that have a row for each of the boxes ``fields[name]``: see ``place_outputs``."""
    height, width = as_side(output_size[0]), as_side(output_size[1])
    scale = torch.stack((output_size[1] / image.shape[2], output_size[0] / image.shape[1]))
    boxes = clip_boxes(fields[name] * scale.repeat(2), (height, width))
    kept = nonempty_boxes(boxes).nonzero()[:, 0]
    boxes = boxes[kept]
    placed: Dict[str, Tensor] = {name: boxes}
    for row_name, value in fields.items():
        if row_name == "pred_masks":
            placed[row_name] = _paste(value[kept], boxes, image, height, width, mask_threshold)
        elif row_name == "pred_keypoints":
            placed[row_name] = value[kept] * F.pad(scale, [0, 1], value=1.0)
        elif row_name != name and row_name != "sem_seg":
            placed[row_name] = value[kept]
    return placed


def _paste(masks: Tensor, boxes: Tensor, image: Tensor, height: int, width: int, threshold: float) -> Tensor:
    if torch.jit.is_scripting():
        return paste_masks(masks, boxes, height, width, threshold)
    else:  # noqa: RET505 - the branch that TorchScript does not compile
        y, x = _pixel_centres(image, height), _pixel_centres(image, width)
        return paste_masks_at_once(masks, boxes, y, x, threshold)


def _pixel_centres(image: Tensor, side: int) -> Tensor:
    """(side,) float32 centres in px, counted from ones: an arange would write a trace's device into it."""
    return torch.ones_like(image[0, 0, :1], dtype=torch.float32).expand(side).cumsum(0) - 0.5


def as_side(side: Tensor) -> int:
    """A size in px that follows an int64 () tensor in every kind of graph, and is nowhere written into it."""
    if torch.jit.is_scripting():
        return int(side)
    elif torch.jit.is_tracing():  # noqa: RET505 - TorchScript compiles no return after a return
        return side  # type: ignore[return-value]
    else:
        return side.item()  # type: ignore[return-value]
