"""Masks of the instances of one image, as bitmaps or as polygons."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from detexport.layers.mask_ops import paste_masks_in_image
from detexport.structures.boxes import Boxes
from detexport.structures.instance_tensor import InstanceTensor

Polygon = np.ndarray | Sequence[float]
"""x0, y0, x1, y1, ... in px."""


class BitMasks(InstanceTensor):
    """Masks as bitmaps of the image's size.

    Args:
        tensor: (R, H, W), converted to bool.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise ValueError(f"bit masks have the shape (R, H, W), got {tuple(tensor.shape)}")
        super().__init__(tensor)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.tensor.shape[1], self.tensor.shape[2]

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | Sequence[Sequence[Polygon]]", height: int, width: int
    ) -> "BitMasks":
        """Rasterize polygons at an image size of ``height`` x ``width`` px."""
        polygons = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        bitmaps = np.zeros((len(polygons), height, width), bool)
        for bitmap, instance in zip(bitmaps, polygons, strict=True):
            bitmap[:] = polygons_to_bitmask(instance, height, width)
        return BitMasks(torch.from_numpy(bitmaps))

    def nonempty(self) -> Tensor:
        """Return (R,) bool: whether a mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Return the smallest box around the pixels of each mask; all 0 for an empty mask."""
        edges = []
        for pixels in (self.tensor.any(dim=1), self.tensor.any(dim=2)):
            size = pixels.shape[1]
            position = torch.arange(size, device=self.device)
            first = torch.where(pixels, position, size).amin(dim=1)
            last = torch.where(pixels, position + 1, 0).amax(dim=1)
            edges.append((torch.minimum(first, last), last))
        (x0, x1), (y0, y1) = edges
        return Boxes(torch.stack((x0, y0, x1, y1), dim=1))

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each mask to its box and resample it on a grid, as the mask loss needs it.

        Args:
            boxes: (R, 4) XYXY in px, one per mask.
            mask_size: cells per side.

        Returns:
            (R, mask_size, mask_size) bool.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(self)} masks need as many boxes, got {len(boxes)}")
        indices = torch.arange(len(self), device=boxes.device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([indices, boxes], dim=1)
        bitmaps = self.tensor.to(boxes.dtype)[:, None]
        grid = roi_align(bitmaps, rois, (mask_size, mask_size), 1.0, 0, True)
        return grid[:, 0] >= 0.5

    @staticmethod
    def cat(bitmasks_list: Sequence["BitMasks"]) -> "BitMasks":
        """Concatenate several ``BitMasks`` of one image size."""
        return BitMasks(torch.cat([mask.tensor for mask in bitmasks_list], dim=0))

    def __repr__(self) -> str:
        return f"BitMasks({len(self)} of {self.image_size})"


class ROIMasks(InstanceTensor):
    """Masks as probabilities on a grid over the box of each instance.

    Args:
        tensor: (R, S, S).
    """

    def __init__(self, tensor: Tensor) -> None:
        if tensor.dim() != 3:
            raise ValueError(f"masks of boxes have the shape (R, S, S), got {tuple(tensor.shape)}")
        super().__init__(tensor)

    def to_bitmasks(self, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> BitMasks:
        """Paste each mask into its box.

        Args:
            boxes: (R, 4) XYXY in px of the image, one per mask.
            height: of the image in px.
            width: of the image in px.
            threshold: lowest probability of a pixel of a mask.
        """
        return BitMasks(paste_masks_in_image(self.tensor, boxes, (height, width), threshold))

    def __repr__(self) -> str:
        return f"ROIMasks({len(self)} of {tuple(self.tensor.shape[1:])} cells)"


class PolygonMasks:
    """Masks as polygons; an instance has any number of them, and they may overlap.

    Args:
        polygons: the polygons of each instance, each x0, y0, x1, y1, ... in px.

    Raises:
        ValueError: a polygon has fewer than three vertices, or an odd number of coordinates.
    """

    def __init__(self, polygons: Sequence[Sequence[Polygon]]) -> None:
        self.polygons = [[_corners(polygon) for polygon in instance] for instance in polygons]

    @property
    def device(self) -> torch.device:
        """Always the CPU: polygons stay in main memory."""
        return torch.device("cpu")

    def to(self, *_args: object, **_kwargs: object) -> "PolygonMasks":
        """Return the same object: polygons stay in main memory."""
        return self

    def nonempty(self) -> Tensor:
        """Return (R,) bool: whether an instance has a polygon."""
        return torch.tensor([len(instance) > 0 for instance in self.polygons], dtype=torch.bool)

    def area(self) -> Tensor:
        """Return the (R,) sums of the polygon areas in px²; overlaps count twice."""
        return torch.tensor([float(sum(map(_area, instance))) for instance in self.polygons])

    def get_bounding_boxes(self) -> Boxes:
        """Return the smallest box around the polygons of each instance; all 0 without polygons."""
        boxes = torch.zeros(len(self), 4)
        for box, instance in zip(boxes, self.polygons, strict=True):
            if instance:
                corners = torch.from_numpy(np.concatenate(instance).reshape(-1, 2))
                box[:2], box[2:] = corners.amin(dim=0), corners.amax(dim=0)
        return Boxes(boxes)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Rasterize each mask on a grid over its box, as the mask loss needs it.

        Args:
            boxes: (R, 4) XYXY in px, one per mask.
            mask_size: cells per side.

        Returns:
            (R, mask_size, mask_size) bool, on the device of ``boxes``.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(self)} masks need as many boxes, got {len(boxes)}")
        grids = np.zeros((len(self), mask_size, mask_size), bool)
        for grid, instance, box in zip(grids, self.polygons, boxes.cpu().double().numpy(), strict=True):
            grid[:] = _rasterized_within(instance, box, mask_size)
        return torch.from_numpy(grids).to(boxes.device)

    @classmethod
    def cat(cls, polymasks_list: Sequence["PolygonMasks"]) -> "PolygonMasks":
        """Concatenate several ``PolygonMasks``."""
        return cls([instance for masks in polymasks_list for instance in masks.polygons])

    def __getitem__(self, item: int | slice | Sequence[int] | Tensor) -> "PolygonMasks":
        if isinstance(item, int):
            return PolygonMasks([self.polygons[item]])
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        indices = torch.as_tensor(item)
        if indices.dtype == torch.bool:
            indices = indices.nonzero()[:, 0]
        return PolygonMasks([self.polygons[int(index)] for index in indices.tolist()])

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        yield from self.polygons

    def __repr__(self) -> str:
        return f"PolygonMasks({len(self)} instances)"


def polygons_to_bitmask(polygons: Sequence[Polygon], height: int, width: int) -> np.ndarray:
    """Rasterize the union of polygons as pycocotools does.

    Args:
        polygons: each x0, y0, x1, y1, ... in px; without any the mask is empty.
        height: of the mask in px.
        width: of the mask in px.

    Returns:
        (height, width) bool.
    """
    # Imported here, so that models run without pycocotools.
    from pycocotools import mask as coco_mask

    if len(polygons) == 0:
        return np.zeros((height, width), bool)
    outlines = coco_mask.frPyObjects([_corners(polygon).tolist() for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(outlines)).astype(bool)


def rasterize_polygons_within_box(polygons: Sequence[Polygon], box: np.ndarray, mask_size: int) -> Tensor:
    """Rasterize the polygons of an instance on a grid over a box.

    Args:
        polygons: each x0, y0, x1, y1, ... in px.
        box: (4,) XYXY in px.
        mask_size: cells per side.

    Returns:
        (mask_size, mask_size) bool.
    """
    corners = [_corners(polygon) for polygon in polygons]
    return torch.from_numpy(_rasterized_within(corners, np.asarray(box, np.float64), mask_size))


def _rasterized_within(polygons: Sequence[np.ndarray], box: np.ndarray, mask_size: int) -> np.ndarray:
    # The minimum avoids a division by 0: the loss needs a value for an empty box too.
    scale = mask_size / np.maximum(box[2:] - box[:2], 0.1)
    moved = [((polygon.reshape(-1, 2) - box[:2]) * scale).ravel() for polygon in polygons]
    return polygons_to_bitmask(moved, mask_size, mask_size)


def _corners(polygon: Polygon) -> np.ndarray:
    corners = np.asarray(polygon.cpu() if isinstance(polygon, Tensor) else polygon, dtype=np.float64)
    # pycocotools would take four numbers for a box.
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
        raise ValueError(
            f"a polygon is x0, y0, x1, y1, ... with at least three vertices, got {corners.shape}"
        )
    return corners


def _area(polygon: np.ndarray) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
