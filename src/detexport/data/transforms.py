"""Transforms of an image with its boxes, polygons and keypoints, and random augmentations.

A ``Transform`` is deterministic. An ``Augmentation`` draws a transform for an image, from numpy's global
generator. ``AugInput`` holds the values to transform::

    augmentations = T.AugmentationList([T.ResizeShortestEdge(800, 1333), T.RandomFlip()])
    inputs = T.AugInput(image)
    transforms = augmentations(inputs)
    boxes = transforms.apply_box(boxes)  # the same transforms as of inputs.image

Shapes: images are (H, W, 3) uint8, coordinates (N, 2) x and y in px.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from detexport.contract import ResizeRule
from detexport.data.resize import resize_image, resized_size


class Transform:
    """The identity; subclasses define the transform of pixels and coordinates."""

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Return the transformed image."""
        return image

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the transformed (N, 2) coordinates."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the transformed (H, W) labels or mask, without interpolation of labels."""
        return self.apply_image(segmentation)

    def apply_box(self, box: Any) -> np.ndarray:
        """Return the (N, 4) XYXY bounding boxes of the transformed corners."""
        corners = np.asarray(box, dtype=np.float64).reshape(-1, 4)[:, [0, 1, 2, 1, 0, 3, 2, 3]]
        moved = self.apply_coords(corners.reshape(-1, 2)).reshape(-1, 4, 2)
        return np.concatenate((moved.min(axis=1), moved.max(axis=1)), axis=1)

    def apply_polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the transformed polygons, each (N, 2)."""
        return [self.apply_coords(polygon) for polygon in polygons]

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


class NoOpTransform(Transform):
    """The identity."""


class HFlipTransform(Transform):
    """Horizontal flip.

    Args:
        width: of the image in px.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Flip the image horizontally."""
        return image[:, ::-1]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Flip the x coordinates."""
        return np.stack((self.width - coords[:, 0], coords[:, 1]), axis=1)


class VFlipTransform(Transform):
    """Vertical flip.

    Args:
        height: of the image in px.
    """

    def __init__(self, height: int) -> None:
        self.height = height

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Flip the image vertically."""
        return image[::-1]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Flip the y coordinates."""
        return np.stack((coords[:, 0], self.height - coords[:, 1]), axis=1)


class CropTransform(Transform):
    """Crop of a part of the image.

    Args:
        x0: left edge in px.
        y0: upper edge in px.
        w: width in px.
        h: height in px.
    """

    def __init__(self, x0: int, y0: int, w: int, h: int) -> None:
        self.x0, self.y0, self.w, self.h = x0, y0, w, h

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Crop the image."""
        return image[self.y0 : self.y0 + self.h, self.x0 : self.x0 + self.w]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Shift the coordinates to the corner of the crop; points outside are kept."""
        return coords - np.array([self.x0, self.y0])

    def apply_polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Clip the polygons to the crop; those outside are left out."""
        cropped = [clip_polygon(self.apply_coords(polygon), self.w, self.h) for polygon in polygons]
        return [polygon for polygon in cropped if len(polygon) >= 3]


class ResizeTransform(Transform):
    """Resize of the image.

    Args:
        h: height in px.
        w: width in px.
        new_h: new height in px.
        new_w: new width in px.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int) -> None:
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resize bilinearly: see ``resize_image``."""
        return resize_image(image.transpose(2, 0, 1), (self.new_h, self.new_w)).transpose(1, 2, 0)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize with nearest-neighbour sampling, as PIL does."""
        rows, columns = _nearest(self.h, self.new_h), _nearest(self.w, self.new_w)
        return segmentation[rows[:, None], columns]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale the coordinates."""
        return coords * np.array([self.new_w / self.w, self.new_h / self.h])


class TransformList(Transform):
    """A sequence of transforms.

    Args:
        transforms: in order of application.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms: list[Transform] = []
        for transform in transforms:
            nested = isinstance(transform, TransformList)
            self.transforms += transform.transforms if nested else [transform]  # type: ignore[attr-defined]

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Apply all transforms to the image."""
        for transform in self.transforms:
            image = transform.apply_image(image)
        return image

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Apply all transforms to the coordinates."""
        for transform in self.transforms:
            coords = transform.apply_coords(coords)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Apply all transforms to the labels."""
        for transform in self.transforms:
            segmentation = transform.apply_segmentation(segmentation)
        return segmentation

    def apply_box(self, box: Any) -> np.ndarray:
        """Apply all transforms to the boxes."""
        for transform in self.transforms:
            box = transform.apply_box(box)
        return np.asarray(box)

    def apply_polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Apply all transforms to the polygons."""
        for transform in self.transforms:
            polygons = transform.apply_polygons(polygons)
        return list(polygons)

    def __len__(self) -> int:
        return len(self.transforms)


class AugInput:
    """Values that are augmented together.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) XYXY in px.
        sem_seg: (H, W) labels.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Transform all values, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: "Sequence[Augmentation | Transform]") -> TransformList:
        """Augment all values, in place, and return the transforms."""
        return AugmentationList(augmentations)(self)


class Augmentation:
    """Base class; subclasses have ``get_transform(image)``, optionally with ``boxes`` or ``sem_seg``."""

    get_transform: Any

    def __call__(self, aug_input: AugInput) -> Transform:
        """Draw a transform, apply it to ``aug_input`` in place and return it."""
        names = inspect.signature(self.get_transform).parameters
        transform: Transform = self.get_transform(*(getattr(aug_input, name) for name in names))
        aug_input.transform(transform)
        return transform


class AugmentationList(Augmentation):
    """A sequence of augmentations or transforms.

    Args:
        augs: in order of application.
    """

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = list(augs)

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Apply all of them to ``aug_input`` in place and return the transforms."""
        done = []
        for aug in self.augs:
            if isinstance(aug, Augmentation):
                done.append(aug(aug_input))
            else:
                aug_input.transform(aug)
                done.append(aug)
        return TransformList(done)


class ResizeShortestEdge(Augmentation):
    """Resize of the shortest edge to a drawn length, unless the longest edge would exceed ``max_size``.

    Args:
        short_edge_length: in px; one length, several, or with ``sample_style="range"`` the least and the
            greatest. 0 does not resize.
        max_size: of the longest edge in px.
        sample_style: ``"choice"`` or ``"range"``.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = 2**31 - 1,
        sample_style: str = "choice",
    ) -> None:
        lengths = [short_edge_length] if isinstance(short_edge_length, int) else list(short_edge_length)
        if sample_style not in ("choice", "range"):
            raise ValueError(f"sample_style is 'choice' or 'range', got {sample_style!r}")
        if isinstance(short_edge_length, int) and sample_style == "range":
            lengths = [short_edge_length, short_edge_length]
        if not lengths or (sample_style == "range" and len(lengths) != 2):
            raise ValueError(f"short_edge_length does not fit sample_style {sample_style!r}: {lengths}")
        self.short_edge_length = lengths
        self.max_size = max_size
        self.sample_style = sample_style

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a resize of this image."""
        if self.sample_style == "range":
            length = int(np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1))
        else:
            length = int(np.random.choice(self.short_edge_length))
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        return ResizeTransform(height, width, *resized_size(height, width, ResizeRule(length, self.max_size)))


class Resize(Augmentation):
    """Resize to a fixed size.

    Args:
        shape: height and width in px, or one number for both.
    """

    def __init__(self, shape: int | tuple[int, int]) -> None:
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the resize of this image."""
        return ResizeTransform(*image.shape[:2], *self.shape)


class RandomFlip(Augmentation):
    """Random flip.

    Args:
        prob: probability of a flip.
        horizontal: flip horizontally.
        vertical: flip vertically.

    Raises:
        ValueError: neither direction is set, or both.
    """

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError("a flip is horizontal or vertical; give two for both")
        self.prob = prob
        self.horizontal = horizontal

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a flip or the identity."""
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(image.shape[1]) if self.horizontal else VFlipTransform(image.shape[0])


class RandomCrop(Augmentation):
    """Crop at a random position.

    Args:
        crop_type: ``"relative"``: height and width as fractions of the image's; ``"relative_range"``: at
            least these fractions; ``"absolute"``: in px; ``"absolute_range"``: each between the two numbers,
            in px.
        crop_size: two numbers.

    Raises:
        ValueError: the type is unknown.
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float]) -> None:
        if crop_type not in ("relative", "relative_range", "absolute", "absolute_range"):
            raise ValueError(
                f"unknown crop_type {crop_type!r}; expected relative or absolute, or with _range"
            )
        self.crop_type = crop_type
        self.crop_size = (crop_size[0], crop_size[1])

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draw the height and width in px of a crop of an image of this height and width."""
        sides, asked = np.array(image_size), np.array(self.crop_size)
        if self.crop_type == "absolute_range":
            low, high = np.minimum(sides, asked[0]).astype(int), np.minimum(sides, asked[1]).astype(int)
            drawn = np.random.randint(low, high + 1)
        elif self.crop_type == "absolute":
            drawn = np.minimum(sides, asked)
        else:
            if self.crop_type == "relative_range":
                asked = asked + np.random.rand(2) * (1 - asked)
            drawn = sides * asked + 0.5
        return max(1, int(drawn[0])), max(1, int(drawn[1]))

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a crop of this image."""
        height, width = self.get_crop_size(image.shape[:2])
        y0 = int(np.random.randint(image.shape[0] - height + 1))
        x0 = int(np.random.randint(image.shape[1] - width + 1))
        return CropTransform(x0, y0, width, height)


def _nearest(size: int, new_size: int) -> np.ndarray:
    """Return the source index of each pixel along a resized edge."""
    indices = Image.fromarray(np.arange(size, dtype=np.int32)[None])
    return np.asarray(indices.resize((new_size, 1), Image.Resampling.NEAREST))[0]


def clip_polygon(polygon: np.ndarray, width: float, height: float) -> np.ndarray:
    """Clip a polygon to ``[0, width] x [0, height]``, one edge after another (Sutherland and Hodgman 1974).

    The pieces of a polygon that is not convex stay connected by lines along the edge, which have no area.

    Args:
        polygon: (N, 2) vertices, x and y in px.
        width: in px.
        height: in px.

    Returns:
        (M, 2) vertices, empty if the polygon is outside.
    """
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        corners: list[np.ndarray] = []
        depths = sign * (polygon[:, axis] - limit)
        for index in range(len(polygon)):
            start, end = polygon[index - 1], polygon[index]
            before, after = depths[index - 1], depths[index]
            if (before < 0) != (after < 0):
                corners.append(start + (end - start) * (before / (before - after)))
            if after >= 0:
                corners.append(end)
        polygon = np.array(corners).reshape(-1, 2)
    return polygon
