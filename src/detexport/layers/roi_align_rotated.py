"""ROIAlign over rotated boxes, in plain torch.

Each step adds one sample of every cell of every box, so that the sizes in a graph do not depend on values.

Shapes: N images, R boxes, S cells of the output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    roi = roi.to(input.dtype)
    size = roi[:, 3:5] * spatial_scale
    cells = torch.cat((torch.full_like(size[:, :1], width), torch.full_like(size[:, :1], height)), dim=1)
    counts = torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else torch.ceil(size / cells)
    counts = counts.clamp(min=1)
    # The centre of a feature map's first cell is 0 here, and half a cell in the boxes' coordinates.
    centre = roi[:, 1:3] * spatial_scale - 0.5
    boxes = torch.cat((centre, size, roi[:, 5:6], roi[:, :1]), dim=1)
    if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript must not compile the other condition
        if torch.compiler.is_exporting():
            pooled = _sum_in_graph(input, boxes, counts, height, width)
            return pooled.reshape(-1, height, width, input.shape[1]).permute(0, 3, 1, 2)
    pooled = _sum(input, boxes, counts, height, width)
    return pooled.reshape(-1, height, width, input.shape[1]).permute(0, 3, 1, 2)


def _start(
    input: Tensor, boxes: Tensor, counts: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the values that all samples share.

    Returns:
        The features (N * H * W, C); the height and width of the maps () and (); the row and column (S,) of
        each of the S cells of the output; and the greatest counts (2,), columns and rows.
    """
    # Explicit: whether a reshape must copy depends on the size, and torch.export would guard on it.
    features = input.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).flatten(0, 2)
    # Sums of ones, since a trace would record the device of a range or the size of the map.
    rows = torch.ones_like(input[0, 0, :, 0]).sum()
    columns = torch.ones_like(input[0, 0, 0, :]).sum()
    one = torch.ones_like(input[:1, 0, 0, 0])
    y = (one.expand(height).cumsum(0) - 1)[:, None].expand(height, width).reshape(-1)
    x = (one.expand(width).cumsum(0) - 1)[None, :].expand(height, width).reshape(-1)
    # The added row gives the maximum a value without boxes.
    most = F.pad(counts, [0, 0, 0, 1], value=1.0).amax(dim=0)
    return features, rows, columns, y, x, most


def _sample(
    number: Tensor,
    features: Tensor,
    map_rows: Tensor,
    map_columns: Tensor,
    y: Tensor,
    x: Tensor,
    most: Tensor,
    boxes: Tensor,
    counts: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """Return sample ``number`` of every cell over the number of samples, (R, S, C); 0 where there are fewer.

    Args:
        number: () index of the sample, by row and column in its cell.
        features: see ``_start``; so are the next five arguments.
        map_rows: height of the maps.
        map_columns: width of the maps.
        y: row of each cell.
        x: column of each cell.
        most: greatest counts.
        boxes: (R, 6) centre, width, height in cells of the map; the angle; the index of the image.
        counts: (R, 2) samples per cell, columns and rows.
        height: of the output in cells.
        width: of the output in cells.
    """
    row = torch.floor(number / most[0])
    column = number - row * most[0]
    inside = (column < counts[:, 0]) & (row < counts[:, 1])
    right = ((x[None] + (column + 0.5) / counts[:, 0:1]) / width - 0.5) * boxes[:, 2:3]
    down = ((y[None] + (row + 0.5) / counts[:, 1:2]) / height - 0.5) * boxes[:, 3:4]
    angle = torch.deg2rad(boxes[:, 4:5])
    cos, sin = torch.cos(angle), torch.sin(angle)
    at_x = boxes[:, 0:1] + right * cos + down * sin
    at_y = boxes[:, 1:2] - right * sin + down * cos
    # A sample up to one cell outside the map reads its border; further outside it is 0.
    valid = (at_x >= -1) & (at_x <= map_columns) & (at_y >= -1) & (at_y <= map_rows) & inside[:, None]
    at_x = torch.minimum(at_x.clamp(min=0), map_columns - 1)
    at_y = torch.minimum(at_y.clamp(min=0), map_rows - 1)
    left, top = torch.floor(at_x), torch.floor(at_y)
    beside, below = torch.minimum(left + 1, map_columns - 1), torch.minimum(top + 1, map_rows - 1)
    part_x, part_y = at_x - left, at_y - top
    weight = valid.to(features.dtype) / (counts[:, 0:1] * counts[:, 1:2])
    # Integers: float32 cannot number the cells of a large batch.
    first = boxes[:, 5:6].to(torch.int64) * map_rows.to(torch.int64)
    wide = map_columns.to(torch.int64)
    upper, lower = (first + top.to(torch.int64)) * wide, (first + below.to(torch.int64)) * wide
    near, far = left.to(torch.int64), beside.to(torch.int64)
    return (
        features[upper + near] * (weight * (1 - part_y) * (1 - part_x))[..., None]
        + features[upper + far] * (weight * (1 - part_y) * part_x)[..., None]
        + features[lower + near] * (weight * part_y * (1 - part_x))[..., None]
        + features[lower + far] * (weight * part_y * part_x)[..., None]
    )


@torch.jit.script_if_tracing
def _sum(input: Tensor, boxes: Tensor, counts: Tensor, height: int, width: int) -> Tensor:
    """Return the mean of the samples of each cell, (R, S, C)."""
    features, rows, columns, y, x, most = _start(input, boxes, counts, height, width)
    total = torch.zeros_like(boxes[:, :1, None]).expand(-1, height * width, input.shape[1])
    for index in range(int(most[0] * most[1])):
        number = torch.full_like(most[0], index)
        total = total + _sample(number, features, rows, columns, y, x, most, boxes, counts, height, width)
    return total


def _sum_in_graph(input: Tensor, boxes: Tensor, counts: Tensor, height: int, width: int) -> Tensor:
    """Return the mean of the samples of each cell as ``_sum`` does, in a graph of ``torch.export``."""
    features, rows, columns, y, x, most = _start(input, boxes, counts, height, width)
    end = most[0] * most[1]

    def remains(number: Tensor, total: Tensor) -> Tensor:
        return number < end

    def add(number: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        sample = _sample(number, features, rows, columns, y, x, most, boxes, counts, height, width)
        return number + 1, total + sample

    start = torch.zeros_like(boxes[:, :1, None].expand(-1, height * width, input.shape[1]))
    return torch.while_loop(remains, add, (torch.zeros_like(end), start))[1]


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
