"""ROIAlign over rotated boxes, in plain torch.

Shapes: R boxes, S samples of a box.
"""

import math

import torch
from torch import Tensor, nn

from detexport.layers.tracing import refuse_tracing


def roi_align_rotated(
    input: Tensor,
    roi: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """Average bilinear samples of a feature map in the cells of a grid over each rotated box.

    Args:
        input: (N, C, H, W).
        roi: (R, 6) index of the image, centre x and y, width, height, and the angle in degrees,
            counter-clockwise.
        output_size: height and width of the grid in cells, or one number for both.
        spatial_scale: factor from the boxes' coordinates to cells of the feature map.
        sampling_ratio: samples per cell and axis; 0 adapts to the box.

    Returns:
        (R, C, *output_size).
    """
    refuse_tracing("roi_align_rotated", "pool rotated boxes outside of the traced module")
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    pooled = []
    for box in roi.to(input.dtype):
        size = box[3:5] * spatial_scale
        rows = sampling_ratio or max(1, math.ceil(float(size[1]) / height))
        columns = sampling_ratio or max(1, math.ceil(float(size[0]) / width))
        x, y = _samples(box, spatial_scale, height * rows, width * columns)
        values = _bilinear(input[int(box[0])], x, y)
        cells = values.reshape(-1, height, rows, width, columns)
        pooled.append(cells.mean(dim=(2, 4)))
    return torch.stack(pooled) if pooled else input.new_zeros(0, input.shape[1], height, width)


def _samples(box: Tensor, spatial_scale: float, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return x and y (S,) of a grid of samples over a box, in cells of the feature map."""
    # The centre of a feature map's first cell is 0 here, and half a cell in the boxes' coordinates.
    centre = box[1:3] * spatial_scale - 0.5
    size = box[3:5] * spatial_scale
    right = ((torch.arange(columns).to(box) + 0.5) / columns - 0.5) * size[0]
    down = ((torch.arange(rows).to(box) + 0.5) / rows - 0.5) * size[1]
    cos, sin = torch.cos(torch.deg2rad(box[5])), torch.sin(torch.deg2rad(box[5]))
    x = centre[0] + right[None, :] * cos + down[:, None] * sin
    y = centre[1] - right[None, :] * sin + down[:, None] * cos
    return x.flatten(), y.flatten()


def _bilinear(feature: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample (C, H, W) at (S,) positions to (C, S): the border repeats for one cell, then follows 0."""
    height, width = feature.shape[1:]
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    fraction_x, fraction_y = x - left, y - top
    above = feature[:, top, left] * (1 - fraction_x) + feature[:, top, right] * fraction_x
    below = feature[:, bottom, left] * (1 - fraction_x) + feature[:, bottom, right] * fraction_x
    return (above * (1 - fraction_y) + below * fraction_y) * inside


class ROIAlignRotated(nn.Module):
    """``roi_align_rotated`` as a module.

    Args:
        output_size: see ``roi_align_rotated``.
        spatial_scale: see ``roi_align_rotated``.
        sampling_ratio: see ``roi_align_rotated``.
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool (N, C, H, W) over rotated boxes (R, 6) to (R, C, *output_size)."""
        return roi_align_rotated(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)
