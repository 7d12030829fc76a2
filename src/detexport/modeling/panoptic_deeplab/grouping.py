"""Post-processing of Panoptic-DeepLab: pixels grouped by the centres of instances.

Shapes: H and W of the output in px, K classes, M centres, R instances.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detexport.errors import ConfigError
from detexport.structures import Boxes, Instances

VOID = -1
"""Panoptic id of a pixel without a segment."""


@dataclass(frozen=True)
class CenterGrouping:
    """Combines the classes, centres and offsets of pixels into panoptic ids and instances.

    Args:
        thing_ids: classes that have instances.
        label_divisor: the panoptic id is the class times this plus the number of the instance in its class, 0
            for stuff.
        stuff_area: segments of stuff with fewer px become void.
        center_threshold: lower bound of a centre's heat, exclusive.
        nms_kernel: side in px of the window in which a centre has the greatest heat.
        top_k: fewer than this number of centres are kept, as in detectron2.
    """

    thing_ids: tuple[int, ...]
    label_divisor: int
    stuff_area: int
    center_threshold: float
    nms_kernel: int
    top_k: int

    def __post_init__(self) -> None:
        """Check that the window has a central pixel.

        Raises:
            ConfigError: its side is even.
        """
        if self.nms_kernel % 2 == 0:
            raise ConfigError(
                "the window of the centres must have an odd side",
                got=f"MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL: {self.nms_kernel}",
                expected="an odd number of px",
                remedy="correct MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL",
            )

    def panoptic(self, classes: Tensor, center: Tensor, offset: Tensor) -> Tensor:
        """Return the panoptic id (H, W) int64 of each pixel, ``VOID`` for none.

        Args:
            classes: (H, W) class of each pixel.
            center: (1, H, W) heat of the centres of instances.
            offset: (2, H, W) offset of each pixel to the centre of its instance, y and x in px.
        """
        things = torch.isin(classes, torch.tensor(self.thing_ids, device=classes.device))
        groups = group_pixels(self.centers(center), offset)
        panoptic = torch.full_like(classes, VOID)
        count: dict[int, int] = {}
        for group in groups[things & (groups > 0)].unique().tolist():
            mask = things & (groups == group)
            label = int(classes[mask].mode().values)
            count[label] = count.get(label, 0) + 1
            panoptic[mask] = label * self.label_divisor + count[label]
        for label in classes[~things].unique().tolist():
            mask = classes == label
            if int(mask.sum()) >= self.stuff_area:
                panoptic[mask] = label * self.label_divisor
        return panoptic

    def centers(self, heat: Tensor) -> Tensor:
        """Return the centres (M, 2), y and x in px, of a heatmap (1, H, W), row by row."""
        above = torch.where(heat > self.center_threshold, heat, -1.0)
        largest = F.max_pool2d(above[None], self.nms_kernel, stride=1, padding=(self.nms_kernel - 1) // 2)[0]
        peaks = torch.where(above == largest, above, -1.0)[0]
        lowest = peaks.flatten().topk(min(self.top_k, peaks.numel())).values[-1].clamp(min=0)
        return (peaks > lowest).nonzero()

    def instances(self, panoptic: Tensor, logits: Tensor, center: Tensor) -> Instances | None:
        """Return the instances in the order of their panoptic ids; None if there are none.

        The score is the mean probability of the class over the mask, times the heat at the centroid.

        Args:
            panoptic: (H, W) ids.
            logits: (K, H, W) of the classes.
            center: see ``panoptic``.

        Returns:
            ``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_masks`` (R, H, W) bool.
        """
        probabilities = logits.softmax(dim=0)
        masks, classes, scores, boxes = [], [], [], []
        for number in panoptic.unique().tolist():
            label = number // self.label_divisor
            if number == VOID or label not in self.thing_ids:
                continue
            mask = panoptic == number
            pixels = mask.nonzero()
            y, x = pixels.float().mean(dim=0).to(torch.int64).tolist()
            low, high = pixels.amin(dim=0), pixels.amax(dim=0) + 1
            masks.append(mask)
            classes.append(label)
            scores.append(probabilities[label][mask].mean() * center[0, y, x])
            boxes.append(torch.stack((low[1], low[0], high[1], high[0])).float())
        if not masks:
            return None
        return Instances(
            (panoptic.shape[0], panoptic.shape[1]),
            pred_boxes=Boxes(torch.stack(boxes)),
            scores=torch.stack(scores),
            pred_classes=torch.tensor(classes, device=panoptic.device),
            pred_masks=torch.stack(masks),
        )


def group_pixels(centers: Tensor, offset: Tensor) -> Tensor:
    """Return the number (H, W) from 1 of the centre nearest to where each pixel points; 0 without any.

    Args:
        centers: (M, 2) y and x in px.
        offset: (2, H, W) y and x in px.
    """
    height, width = offset.shape[1:]
    nearest = torch.zeros(height, width, dtype=torch.int64, device=offset.device)
    if len(centers) == 0:
        return nearest
    y = torch.arange(height, device=offset.device)[:, None] + offset[0]
    x = torch.arange(width, device=offset.device)[None, :] + offset[1]
    points = torch.stack((y, x), dim=2).reshape(-1, 2)
    # One centre after another: all distances at once would take M times the memory of a map.
    best = torch.full_like(points[:, 0], torch.inf)
    nearest = nearest.flatten()
    for number, centre in enumerate(centers.to(points.dtype), start=1):
        distance = (points - centre).norm(dim=1)
        closer = distance < best
        best, nearest = torch.where(closer, distance, best), torch.where(closer, number, nearest)
    return nearest.reshape(height, width)
