"""Keypoints of the instances of one image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detexport.layers.refuse_tracing import refuse_tracing
from detexport.structures.instance_tensor import InstanceTensor


class Keypoints(InstanceTensor):
    """K keypoints of each instance.

    Args:
        keypoints: (R, K, 3): x and y in px, and the visibility: 0 not labelled, 1 hidden, 2 visible.

    Raises:
        ValueError: the shape is another one.
    """

    def __init__(self, keypoints: Tensor | Sequence[Sequence[Sequence[float]]]) -> None:
        super().__init__(torch.as_tensor(keypoints, dtype=torch.float32))
        if self.tensor.dim() != 3 or self.tensor.shape[2] != 3:
            raise ValueError(f"keypoints have the shape (R, K, 3), got {tuple(self.tensor.shape)}")

    def to_heatmap(self, boxes: Tensor, heatmap_size: int) -> tuple[Tensor, Tensor]:
        """Return the cell of each keypoint on a grid over its box, as the keypoint loss needs it.

        Args:
            boxes: (R, 4) XYXY in px, one per instance.
            heatmap_size: cells per side.

        Returns:
            (R, K) int64 indices into the flattened grid, and (R, K) bool, which is true for keypoints that
            are labelled and inside the box. The index of the others is 0.
        """
        if len(boxes) != len(self):
            raise ValueError(f"keypoints of {len(self)} instances need as many boxes, got {len(boxes)}")
        start, end = boxes[:, None, :2], boxes[:, None, 2:]
        position = self.tensor[..., :2]
        cell = ((position - start) * (heatmap_size / (end - start))).floor()
        # A keypoint on the right or bottom edge of the box belongs to the last cell.
        cell = torch.where(position == end, torch.full_like(cell, heatmap_size - 1), cell)
        inside = ((cell >= 0) & (cell < heatmap_size)).all(dim=2) & (self.tensor[..., 2] > 0)
        cell = torch.where(inside[..., None], cell, torch.zeros_like(cell)).to(torch.int64)
        return cell[..., 1] * heatmap_size + cell[..., 0], inside

    @staticmethod
    def cat(keypoints_list: Sequence["Keypoints"]) -> "Keypoints":
        """Concatenate the instances of several ``Keypoints``."""
        return Keypoints(torch.cat([one.tensor for one in keypoints_list], dim=0))

    def __repr__(self) -> str:
        return f"Keypoints({len(self)} instances, {self.tensor.shape[1]} keypoints each)"


@torch.no_grad()
def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> Tensor:
    """Return the position of the maximum of each heatmap, resized to its box by bicubic interpolation.

    Args:
        maps: (R, K, S, S) logits.
        rois: (R, 4) XYXY in px.

    Returns:
        (R, K, 4): x and y in px, the logit at the maximum, and its score: 1 over the sum of exp(logit -
        highest) over the cells.
    """
    refuse_tracing(
        "structures.heatmaps_to_keypoints", "call modeling.roi_heads.keypoint_head.heatmaps_to_keypoints"
    )
    keypoints = maps.new_zeros(*maps.shape[:2], 4)
    extents = (rois[:, 2:] - rois[:, :2]).clamp(min=1)
    for found, heatmaps, corner, extent in zip(keypoints, maps, rois[:, :2], extents, strict=True):
        columns, rows = (int(side) for side in extent.ceil())
        resized = F.interpolate(heatmaps[None], size=(rows, columns), mode="bicubic", align_corners=False)[0]
        highest, position = resized.flatten(1).max(dim=1)
        cell = torch.stack((position % columns, position // columns), dim=1) + 0.5
        found[:, :2] = corner + cell * (extent / extent.ceil())
        found[:, 2] = highest
        found[:, 3] = 1 / (heatmaps - highest[:, None, None]).exp().sum(dim=(1, 2))
    return keypoints
