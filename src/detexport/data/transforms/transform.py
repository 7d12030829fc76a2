"""Deterministic transforms of an image with its boxes, polygons and keypoints.

Shapes: images are (H, W, 3) uint8, or (H, W) and (H, W, C) of any type where a transform says so; coordinates
(N, 2) x and y in px.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from detexport.data.resize import resize_image


class Transform:
    """The identity; subclasses define the transform of pixels and coordinates."""

    @classmethod
    def register_type(cls, data_type: str, func: Callable[[Any, Any], Any] | None = None) -> Any:
        """Add a method ``apply_{data_type}`` to the class; usable as a decorator of ``func``.

        Args:
            data_type: name of the kind of data, such as ``"rotated_box"``.
            func: called with the transform and the data.
        """
        if func is None:
            return lambda decorated: cls.register_type(data_type, decorated) or decorated
        setattr(cls, f"apply_{data_type}", lambda self, data: func(self, data))
        return None

    def _set_attributes(self, params: dict[str, Any] | None = None) -> None:
        """Set the arguments of a constructor, its ``locals()``, as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def inverse(self) -> "Transform":
        """Return the transform of coordinates, and as far as possible of pixels, that undoes this one.

        Raises:
            NotImplementedError: there is none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

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

    def inverse(self) -> Transform:
        """Return the identity."""
        return self


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

    def inverse(self) -> Transform:
        """Return the same flip."""
        return self


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

    def inverse(self) -> Transform:
        """Return the same flip."""
        return self


class CropTransform(Transform):
    """Crop of a part of the image.

    Args:
        x0: left edge in px.
        y0: upper edge in px.
        w: width in px.
        h: height in px.
        orig_w: width of the image in px; the inverse needs it.
        orig_h: height of the image in px; the inverse needs it.
    """

    def __init__(
        self, x0: int, y0: int, w: int, h: int, orig_w: int | None = None, orig_h: int | None = None
    ) -> None:
        self.x0, self.y0, self.w, self.h = x0, y0, w, h
        self.orig_w, self.orig_h = orig_w, orig_h

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

    def inverse(self) -> Transform:
        """Return the padding to the size of the image.

        Raises:
            NotImplementedError: the size of the image is unknown.
        """
        if self.orig_w is None or self.orig_h is None:
            raise NotImplementedError("a crop has an inverse if orig_w and orig_h are given")
        right, lower = self.orig_w - self.x0 - self.w, self.orig_h - self.y0 - self.h
        return PadTransform(self.x0, self.y0, right, lower, self.w, self.h)


class PadTransform(Transform):
    """Padding of the image.

    Args:
        x0: px on the left.
        y0: px at the top.
        x1: px on the right.
        y1: px at the bottom.
        orig_w: width of the image in px; the inverse needs it.
        orig_h: height of the image in px; the inverse needs it.
        pad_value: of the image.
        seg_pad_value: of labels.
    """

    def __init__(
        self,
        x0: int,
        y0: int,
        x1: int,
        y1: int,
        orig_w: int | None = None,
        orig_h: int | None = None,
        pad_value: float = 0,
        seg_pad_value: int = 0,
    ) -> None:
        self.x0, self.y0, self.x1, self.y1 = x0, y0, x1, y1
        self.orig_w, self.orig_h = orig_w, orig_h
        self.pad_value, self.seg_pad_value = pad_value, seg_pad_value

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Pad the image."""
        return self._padded(image, self.pad_value)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Pad the labels."""
        return self._padded(segmentation, self.seg_pad_value)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Shift the coordinates."""
        return coords + np.array([self.x0, self.y0])

    def inverse(self) -> Transform:
        """Return the crop of the image from its padding.

        Raises:
            NotImplementedError: the size of the image is unknown.
        """
        if self.orig_w is None or self.orig_h is None:
            raise NotImplementedError("a padding has an inverse if orig_w and orig_h are given")
        width, height = self.orig_w + self.x0 + self.x1, self.orig_h + self.y0 + self.y1
        return CropTransform(self.x0, self.y0, self.orig_w, self.orig_h, width, height)

    def _padded(self, image: np.ndarray, value: float) -> np.ndarray:
        sides = ((self.y0, self.y1), (self.x0, self.x1)) + ((0, 0),) * (image.ndim - 2)
        return np.pad(image, sides, mode="constant", constant_values=value)


class ResizeTransform(Transform):
    """Resize of the image.

    Args:
        h: height in px.
        w: width in px.
        new_h: new height in px.
        new_w: new width in px.
        interp: one of PIL's filters; by default bilinear.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else Image.Resampling(interp)

    def apply_image(self, image: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize the image; ``interp`` replaces the filter of the transform."""
        resampling = self.interp if interp is None else Image.Resampling(interp)
        colour = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        if colour and resampling == Image.Resampling.BILINEAR:
            return resize_image(image.transpose(2, 0, 1), (self.new_h, self.new_w)).transpose(1, 2, 0)
        return _by_channel(image, lambda pixels: pixels.resize((self.new_w, self.new_h), resample=resampling))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize with nearest-neighbour sampling, as PIL does."""
        rows, columns = _nearest(self.h, self.new_h), _nearest(self.w, self.new_w)
        return segmentation[rows[:, None], columns]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale the coordinates."""
        return coords * np.array([self.new_w / self.w, self.new_h / self.h])

    def inverse(self) -> Transform:
        """Return the resize to the former size."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ScaleTransform(Transform):
    """Resize of the image by torch's interpolation, for arrays of any channels and type.

    Args:
        h: height in px.
        w: width in px.
        new_h: new height in px.
        new_w: new width in px.
        interp: mode of ``torch.nn.functional.interpolate``; by default ``"bilinear"``.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: str | None = None) -> None:
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = interp or "bilinear"

    def apply_image(self, image: np.ndarray, interp: str | None = None) -> np.ndarray:
        """Resize the image; ``interp`` replaces the mode of the transform."""
        import torch  # here, since the other transforms do not need it

        mode = interp or self.interp
        corners = None if mode in ("nearest", "area") else False
        maps = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))).float()
        resized = torch.nn.functional.interpolate(
            maps[None], size=(self.new_h, self.new_w), mode=mode, align_corners=corners
        )
        pixels = resized[0].numpy().transpose(1, 2, 0).reshape(self.new_h, self.new_w, *image.shape[2:])
        return np.rint(pixels).astype(image.dtype) if image.dtype.kind in "iu" else pixels.astype(image.dtype)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize with nearest-neighbour sampling."""
        return self.apply_image(segmentation, interp="nearest")

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale the coordinates."""
        return coords * np.array([self.new_w / self.w, self.new_h / self.h])

    def inverse(self) -> Transform:
        """Return the resize to the former size."""
        return ScaleTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ExtentTransform(Transform):
    """Resample of a rectangle of the image, which may reach outside, to a size.

    Args:
        src_rect: x0, y0, x1, y1 in px.
        output_size: height and width in px.
        interp: one of PIL's filters.
        fill: value outside the image.
    """

    def __init__(
        self,
        src_rect: Sequence[float],
        output_size: tuple[int, int],
        interp: int = Image.Resampling.BILINEAR,
        fill: float = 0,
    ) -> None:
        self.src_rect = tuple(src_rect)
        self.output_size = output_size
        self.interp = Image.Resampling(interp)
        self.fill = fill

    def apply_image(self, image: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resample the image; ``interp`` replaces the filter of the transform."""
        height, width = self.output_size
        return _by_channel(
            image,
            lambda pixels: pixels.transform(
                (width, height),
                Image.Transform.EXTENT,
                self.src_rect,
                resample=self.interp if interp is None else Image.Resampling(interp),
                fillcolor=self.fill,
            ),
        )

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resample the labels with nearest-neighbour sampling."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Move the coordinates with the rectangle."""
        x0, y0, x1, y1 = self.src_rect
        height, width = self.output_size
        return (coords - np.array([x0, y0])) * np.array([width / (x1 - x0), height / (y1 - y0)])


class RotationTransform(Transform):
    """Rotation of the image, counter-clockwise.

    Args:
        h: height in px.
        w: width in px.
        angle: in degrees.
        expand: enlarge the output so that it holds the whole image; then the image's centre stays its centre.
        center: x and y in px of the point that stays; by default the image's centre. Without effect with
            ``expand``.
        interp: one of PIL's filters; by default bilinear.
    """

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: Sequence[float] | None = None,
        interp: int | None = None,
    ) -> None:
        self.h, self.w, self.angle, self.expand = h, w, angle, expand
        self.interp = Image.Resampling.BILINEAR if interp is None else Image.Resampling(interp)
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        # Rounded, so that a quarter turn has whole sizes.
        cos, sin = round(float(cos), 12), round(float(sin), 12)
        image_center = np.array([w / 2, h / 2])
        self.center = image_center if center is None or expand else np.array(center, dtype=np.float64)
        self.bound_w, self.bound_h = w, h
        target = self.center
        if expand:
            self.bound_w = int(np.rint(h * abs(sin) + w * abs(cos)))
            self.bound_h = int(np.rint(h * abs(cos) + w * abs(sin)))
            target = np.array([self.bound_w / 2, self.bound_h / 2])
        # y points down, so a counter-clockwise rotation has a negative sine here.
        self.matrix = np.array([[cos, sin], [-sin, cos]])
        self.shift = target - self.matrix @ self.center

    def apply_image(self, image: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Rotate the image; ``interp`` replaces the filter of the transform."""
        if self.angle % 360 == 0 or not image.size:
            return image
        back = self.matrix.T
        offset = -back @ self.shift
        coefficients = (*back[0], offset[0], *back[1], offset[1])
        return _by_channel(
            image,
            lambda pixels: pixels.transform(
                (self.bound_w, self.bound_h),
                Image.Transform.AFFINE,
                coefficients,
                resample=self.interp if interp is None else Image.Resampling(interp),
            ),
        )

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Rotate the labels with nearest-neighbour sampling."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Rotate the coordinates."""
        return np.asarray(coords, dtype=np.float64) @ self.matrix.T + self.shift

    def inverse(self) -> Transform:
        """Return the rotation back, with a crop of what ``expand`` added.

        Raises:
            NotImplementedError: the rotation lost corners of the image.
        """
        if not self.expand:
            raise NotImplementedError("a rotation has an inverse with expand=True alone")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        x0, y0 = (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2
        return TransformList([back, CropTransform(x0, y0, self.w, self.h, back.bound_w, back.bound_h)])


class GridSampleTransform(Transform):
    """Samples of the image at the points of a grid.

    Args:
        grid: (H, W, 2) x and y, -1 at the left or upper edge of the image, 1 at the opposite one.
        interp: ``"bilinear"`` or ``"nearest"``.
    """

    def __init__(self, grid: np.ndarray, interp: str) -> None:
        self.grid = grid
        self.interp = interp

    def apply_image(self, image: np.ndarray, interp: str | None = None) -> np.ndarray:
        """Sample the image, with 0 outside; ``interp`` replaces the mode of the transform."""
        import torch  # here, since the other transforms do not need it

        maps = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))).float()
        grid = torch.from_numpy(np.asarray(self.grid, np.float32))
        sampled = torch.nn.functional.grid_sample(
            maps[None], grid[None], mode=interp or self.interp, align_corners=False
        )
        pixels = sampled[0].numpy().transpose(1, 2, 0).reshape(*self.grid.shape[:2], *image.shape[2:])
        return np.rint(pixels).astype(image.dtype) if image.dtype.kind in "iu" else pixels.astype(image.dtype)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Sample the labels with nearest-neighbour sampling."""
        return self.apply_image(segmentation, interp="nearest")

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Refuse: a grid maps pixels of the output to the input alone."""
        raise NotImplementedError("coordinates cannot be transformed by a grid")


class BlendTransform(Transform):
    """Weighted sum of the image and another one, or a constant.

    Args:
        src_image: the other image.
        src_weight: its weight.
        dst_weight: weight of the image.
    """

    def __init__(self, src_image: Any, src_weight: float, dst_weight: float) -> None:
        self.src_image, self.src_weight, self.dst_weight = src_image, src_weight, dst_weight

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Blend the image; uint8 is clipped to 0 .. 255."""
        blended = self.src_weight * self.src_image + self.dst_weight * image.astype(np.float32)
        return blended.clip(0, 255).astype(np.uint8) if image.dtype == np.uint8 else blended

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the labels unchanged."""
        return segmentation

    def inverse(self) -> Transform:
        """Return the identity: the coordinates do not change."""
        return NoOpTransform()


class ColorTransform(Transform):
    """A function of the image's colours.

    Args:
        op: array -> array of the same size.
    """

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]) -> None:
        self.op = op

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Apply the function to the image."""
        return self.op(image)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the labels unchanged."""
        return segmentation

    def inverse(self) -> Transform:
        """Return the identity: the coordinates do not change."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """A function of the image's colours that works on images of PIL.

    Args:
        op: PIL image -> PIL image of the same size.
    """

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Apply the function to the image."""
        op: Callable[[Any], Any] = self.op
        return np.asarray(op(Image.fromarray(image)))


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

    def inverse(self) -> Transform:
        """Return the inverses in the reverse order."""
        return TransformList([transform.inverse() for transform in reversed(self.transforms)])

    def __getattr__(self, name: str) -> Any:
        # A type that was registered with the transforms.
        if not name.startswith("apply_"):
            raise AttributeError(name)

        def apply(data: Any) -> Any:
            for transform in self.transforms:
                data = getattr(transform, name)(data)
            return data

        return apply

    def __radd__(self, other: Transform) -> "TransformList":
        return TransformList([other, *self.transforms])

    def __iadd__(self, other: Transform) -> "TransformList":
        return self + other

    def __add__(self, other: Transform) -> "TransformList":
        return TransformList([*self.transforms, other])

    def __len__(self) -> int:
        return len(self.transforms)


def _nearest(size: int, new_size: int) -> np.ndarray:
    """Return the source index of each pixel along a resized edge."""
    indices = Image.fromarray(np.arange(size, dtype=np.int32)[None])
    return np.asarray(indices.resize((new_size, 1), Image.Resampling.NEAREST))[0]


def _by_channel(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply a change of PIL to each channel of an array (H, W) or (H, W, C), which keeps its type."""
    own = np.uint8 if image.dtype == np.uint8 else np.float32
    maps = np.atleast_3d(image).astype(own).transpose(2, 0, 1)
    changed = [np.asarray(change(Image.fromarray(np.ascontiguousarray(one)))) for one in maps]
    pixels = np.stack(changed, axis=-1) if image.ndim == 3 else changed[0]
    return np.rint(pixels).astype(image.dtype) if image.dtype.kind in "iu" else pixels.astype(image.dtype)


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
