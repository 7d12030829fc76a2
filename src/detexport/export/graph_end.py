"""End of an exported graph: raw outputs, or masks pasted, with the post-processing included.

Pasted outputs equal those of the eager model's post-processing: boxes and keypoints are scaled, boxes are
clipped and empty ones dropped, masks are in pixels of the output image, semantic logits are resized.
"""

from collections.abc import Mapping
from typing import Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.contract import Contract
from detexport.export.export_method import ExportableModel, SampleInputs
from detexport.layers.mask_ops import paste_masks, paste_masks_at_once
from detexport.structures.boxes import clip_boxes, nonempty_boxes
from detexport.structures.rotated_boxes import (
    clip_rotated_boxes,
    nonempty_rotated_boxes,
    scale_rotated_boxes,
)


def image_graph(model: ExportableModel, contract: Contract) -> nn.Module:
    """Return the module from one image, and any other inputs of the contract, to the contract's outputs."""
    raw = model.image_graph(contract.output_names).eval()
    return PastedImage(raw, contract).eval() if contract.graph_end == "pasted" else raw


def batch_graph(model: ExportableModel, contract: Contract) -> nn.Module:
    """Return the scriptable module from lists of ``image_graph``'s inputs to outputs by field."""
    raw = model.batch_graph().eval()
    return PastedBatch(raw, contract).eval() if contract.graph_end == "pasted" else raw


def example_inputs(sample: SampleInputs, contract: Contract) -> tuple[Tensor, ...]:
    """Return the inputs to record a graph of this contract with.

    They are an image and, for a pasted graph, its size; or all inputs of a sample by name.
    """
    if isinstance(sample, Mapping):
        return tuple(torch.from_numpy(sample[spec.name]) for spec in contract.inputs)
    image = torch.from_numpy(sample)
    return (image, torch.tensor(image.shape[1:])) if contract.graph_end == "pasted" else (image,)


class PastedImage(nn.Module):
    """A graph from one image and the output size to the post-processed outputs, in the contract's order.

    Args:
        graph: one image (C, H, W) -> raw outputs.
        contract: contract of the pasted graph.
    """

    def __init__(self, graph: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.raw = graph
        self.names = contract.output_names
        self.mask_threshold = contract.mask_threshold

    def forward(self, image: Tensor, output_size: Tensor) -> tuple[Tensor, ...]:
        """Compute the contract's outputs for an image (C, H, W) and int64 (2,) height and width in px."""
        fields = dict(zip(self.names, self.raw(image), strict=True))
        processed = postprocess_outputs(fields, image, output_size, self.mask_threshold)
        return tuple(processed[name] for name in self.names)


class PastedBatch(nn.Module):
    """A graph from images of different sizes and their output sizes to the outputs of each by field.

    Args:
        graph: list of images -> raw outputs of each by field.
        contract: contract of the pasted graph.
    """

    def __init__(self, graph: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.raw = graph
        self.mask_threshold = contract.mask_threshold

    def forward(self, images: List[Tensor], output_sizes: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute each image's outputs by name, for images (C, H, W) and int64 (2,) heights and widths."""
        results: List[Dict[str, Tensor]] = []
        for index, fields in enumerate(self.raw(images)):
            results.append(
                postprocess_outputs(fields, images[index], output_sizes[index], self.mask_threshold)
            )
        return results


def postprocess_outputs(
    fields: Dict[str, Tensor], image: Tensor, output_size: Tensor, mask_threshold: float
) -> Dict[str, Tensor]:
    """Post-process the raw outputs of one image for an output of another size; works in every kind of graph.

    Args:
        fields: raw outputs by name, in px of ``image``; masks (R, S, S) probabilities.
        image: (C, H, W).
        output_size: int64 (2,), height and width in px.
        mask_threshold: lowest probability of a pixel of a mask.

    Returns:
        The same fields; ``pred_masks`` (R, height, width) bool, ``sem_seg`` (K, height, width).
    """
    processed: Dict[str, Tensor] = {}
    if "sem_seg" in fields:
        size = [as_side(output_size[0]), as_side(output_size[1])]
        maps = fields["sem_seg"][None]
        processed["sem_seg"] = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0]
    for name in ("pred_boxes", "proposal_boxes"):
        if name in fields:
            processed.update(postprocess_rows(fields, name, image, output_size, mask_threshold))
    return processed


def postprocess_rows(
    fields: Dict[str, Tensor], name: str, image: Tensor, output_size: Tensor, mask_threshold: float
) -> Dict[str, Tensor]:
    """Post-process the fields with one row per box of ``fields[name]``: see ``postprocess_outputs``."""
    height, width = as_side(output_size[0]), as_side(output_size[1])
    scale = torch.stack((output_size[1] / image.shape[2], output_size[0] / image.shape[1]))
    if fields[name].shape[1] == 5:
        boxes = clip_rotated_boxes(scale_rotated_boxes(fields[name], scale), (height, width))
        kept = nonempty_rotated_boxes(boxes).nonzero()[:, 0]
    else:
        boxes = clip_boxes(fields[name] * scale.repeat(2), (height, width))
        kept = nonempty_boxes(boxes).nonzero()[:, 0]
    boxes = boxes[kept]
    processed: Dict[str, Tensor] = {name: boxes}
    for row_name, value in fields.items():
        if row_name == "pred_masks":
            processed[row_name] = _paste(value[kept], boxes, image, height, width, mask_threshold)
        elif row_name == "pred_keypoints":
            processed[row_name] = value[kept] * F.pad(scale, [0, 1], value=1.0)
        elif row_name != name and row_name != "sem_seg":
            processed[row_name] = value[kept]
    return processed


def _paste(masks: Tensor, boxes: Tensor, image: Tensor, height: int, width: int, threshold: float) -> Tensor:
    if torch.jit.is_scripting():
        return paste_masks(masks, boxes, height, width, threshold)
    else:  # noqa: RET505 - the branch that TorchScript does not compile
        y, x = _pixel_centres(image, height), _pixel_centres(image, width)
        return paste_masks_at_once(masks, boxes, y, x, threshold)


def _pixel_centres(image: Tensor, side: int) -> Tensor:
    """Return (side,) float32 pixel centres, a sum of ones: a trace would record an arange's device."""
    return torch.ones_like(image[0, 0, :1], dtype=torch.float32).expand(side).cumsum(0) - 0.5


def as_side(side: Tensor) -> int:
    """Convert an int64 () tensor to a size in px, so that no kind of graph records it as a constant."""
    if torch.jit.is_scripting():
        return int(side)
    elif torch.jit.is_tracing():  # noqa: RET505 - TorchScript compiles no return after a return
        return side  # type: ignore[return-value]
    else:
        return side.item()  # type: ignore[return-value]
