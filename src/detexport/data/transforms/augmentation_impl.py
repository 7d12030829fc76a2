"""The augmentations that configurations and extensions use."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from detexport.contract import ResizeRule
from detexport.data.resize import resized_size
from detexport.data.transforms.augmentation import AugInput, Augmentation, AugmentationList
from detexport.data.transforms.transform import (
    BlendTransform,
    CropTransform,
    ExtentTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ResizeTransform,
    RotationTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

CROPS = 10
"""Crops that ``RandomCrop_CategoryAreaConstraint`` tries."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
COLOUR_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
COLOUR_VALUES = np.array([0.2175, 0.0188, 0.0045])
"""Principal components of the RGB colours of ImageNet."""


class ResizeShortestEdge(Augmentation):
    """Resize of the shortest edge to a drawn length, unless the longest edge would exceed ``max_size``.

    Args:
        short_edge_length: in px; one length, several, or with ``sample_style="range"`` the least and the
            greatest. 0 does not resize.
        max_size: of the longest edge in px.
        sample_style: ``"choice"`` or ``"range"``.
        interp: one of PIL's filters.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = 2**31 - 1,
        sample_style: str = "choice",
        interp: int = Image.Resampling.BILINEAR,
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
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a resize of this image."""
        if self.sample_style == "range":
            length = int(np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1))
        else:
            length = int(np.random.choice(self.short_edge_length))
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        size = resized_size(height, width, ResizeRule(length, self.max_size))
        return ResizeTransform(height, width, *size, self.interp)


class Resize(Augmentation):
    """Resize to a fixed size.

    Args:
        shape: height and width in px, or one number for both.
        interp: one of PIL's filters.
    """

    def __init__(self, shape: int | tuple[int, int], interp: int = Image.Resampling.BILINEAR) -> None:
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the resize of this image."""
        (height, width), (new_height, new_width) = image.shape[:2], self.shape
        return ResizeTransform(height, width, new_height, new_width, self.interp)


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
        return CropTransform(x0, y0, width, height, image.shape[1], image.shape[0])


class RandomCrop_CategoryAreaConstraint(Augmentation):  # noqa: N801 - detectron2's name
    """Crop at a random position where no class covers too much; after ten tries, use the last crop.

    Args:
        crop_type: see ``RandomCrop``.
        crop_size: see ``RandomCrop``.
        single_category_max_area: upper bound, exclusive, of the fraction of a class in the crop's labels;
            1 for none.
        ignored_category: label that is not counted.
    """

    def __init__(
        self,
        crop_type: str,
        crop_size: Sequence[float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ) -> None:
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self.single_category_max_area = single_category_max_area
        self.ignored_category = ignored_category

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None) -> Transform:
        """Draw a crop for this image and its labels (H, W), which may be None without an upper bound."""
        if self.single_category_max_area >= 1:
            return self.crop_aug.get_transform(image)
        if sem_seg is None:
            raise ValueError(
                f"single_category_max_area={self.single_category_max_area} needs labels, got sem_seg=None"
            )
        for _ in range(CROPS):
            crop = self.crop_aug.get_transform(image)
            labels, counts = np.unique(crop.apply_segmentation(sem_seg), return_counts=True)
            counts = counts[labels != self.ignored_category]
            if len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area:
                break
        return crop


class FixedSizeCrop(Augmentation):
    """Crop at a random position to a fixed size; a smaller image is padded on the right and at the bottom.

    Args:
        crop_size: height and width in px.
        pad: whether to pad.
        pad_value: of the image.
        seg_pad_value: of labels.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        self.crop_size = tuple(crop_size)
        self.pad, self.pad_value, self.seg_pad_value = pad, pad_value, seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        """Draw a crop of this image, with the padding."""
        height, width = image.shape[:2]
        crop = RandomCrop("absolute", self.crop_size).get_transform(image)
        if not self.pad:
            return TransformList([crop])
        right, lower = max(self.crop_size[1] - width, 0), max(self.crop_size[0] - height, 0)
        size = min(width, self.crop_size[1]), min(height, self.crop_size[0])
        padding = PadTransform(0, 0, right, lower, *size, self.pad_value, self.seg_pad_value)
        return TransformList([crop, padding])


class RandomApply(Augmentation):
    """Another augmentation or transform with a probability.

    Args:
        tfm_or_aug: what is applied.
        prob: its probability.
    """

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"a probability is 0 to 1, got {prob}")
        self.aug = AugmentationList([tfm_or_aug])
        self.prob = prob

    def __call__(self, aug_input: AugInput) -> Transform:
        """Apply it to ``aug_input`` in place, or do nothing, and return the transform."""
        return self.aug(aug_input) if np.random.uniform() < self.prob else NoOpTransform()


class RandomRotation(Augmentation):
    """Rotation by a random angle, counter-clockwise.

    Args:
        angle: in degrees; one number, or with ``sample_style="range"`` the least and the greatest, else
            those to choose from.
        expand: see ``RotationTransform``.
        center: points that stay, as fractions of width and height, sampled as the angle is; by default the
            image's centre.
        sample_style: ``"range"`` or ``"choice"``.
        interp: one of PIL's filters.
    """

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence[Sequence[float]] | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ) -> None:
        if sample_style not in ("range", "choice"):
            raise ValueError(f"sample_style is 'range' or 'choice', got {sample_style!r}")
        self.angle = [angle, angle] if isinstance(angle, int | float) else list(angle)
        self.center = center
        self.expand, self.sample_style, self.interp = expand, sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a rotation of this image."""
        height, width = image.shape[:2]
        point: Sequence[float] | np.ndarray | None = None
        if self.sample_style == "range":
            angle = float(np.random.uniform(self.angle[0], self.angle[1]))
            if self.center is not None:
                point = np.random.uniform(self.center[0], self.center[1])
        else:
            angle = float(np.random.choice(self.angle))
            if self.center is not None:
                point = self.center[np.random.randint(len(self.center))]
        if angle % 360 == 0:
            return NoOpTransform()
        center = None if point is None else (width * point[0], height * point[1])
        return RotationTransform(height, width, angle, self.expand, center, self.interp)


class ResizeScale(Augmentation):
    """Resize into a box of a random size, with the same aspect ratio.

    Args:
        min_scale: least scale of the box.
        max_scale: greatest scale of the box.
        target_height: height of the box at scale 1 in px.
        target_width: width of the box at scale 1 in px.
        interp: one of PIL's filters.
    """

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = Image.Resampling.BILINEAR,
    ) -> None:
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width = target_height, target_width
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a resize of this image."""
        height, width = image.shape[:2]
        scale = np.random.uniform(self.min_scale, self.max_scale)
        ratio = min(self.target_height * scale / height, self.target_width * scale / width)
        size = int(np.rint(height * ratio)), int(np.rint(width * ratio))
        return ResizeTransform(height, width, *size, self.interp)


class RandomResize(Augmentation):
    """Resize to one of several sizes.

    Args:
        shape_list: heights and widths in px.
        interp: one of PIL's filters.
    """

    def __init__(
        self, shape_list: Sequence[tuple[int, int]], interp: int = Image.Resampling.BILINEAR
    ) -> None:
        self.shape_list = list(shape_list)
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a resize of this image."""
        height, width = image.shape[:2]
        new_height, new_width = self.shape_list[np.random.randint(len(self.shape_list))]
        return ResizeTransform(height, width, new_height, new_width, self.interp)


class RandomExtent(Augmentation):
    """Crop of a random rectangle, which may reach outside the image; the rest is black.

    Args:
        scale_range: least and greatest size of the rectangle, relative to the image.
        shift_range: range of the rectangle's centre in x and y, relative to the image's width and height.
    """

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]) -> None:
        self.scale_range, self.shift_range = scale_range, shift_range

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a crop of this image."""
        size = np.array(image.shape[1::-1], dtype=np.float64)
        extent = size * np.random.uniform(*self.scale_range)
        centre = size / 2 + size * np.array(self.shift_range) * (np.random.rand(2) - 0.5)
        low, high = centre - extent / 2, centre + extent / 2
        return ExtentTransform((*low, *high), (int(extent[1]), int(extent[0])))


class _RandomBlend(Augmentation):
    """Blend of the image with another one, with a random weight.

    Args:
        intensity_min: least weight of the image; above 1 the difference from the other one grows.
        intensity_max: greatest weight of the image.
    """

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        self.intensity_min, self.intensity_max = intensity_min, intensity_max

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a blend of this image."""
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(self.other(image), 1 - weight, weight)

    def other(self, image: np.ndarray) -> Any:
        """Return the other image, or a number for one of equal pixels."""
        raise NotImplementedError


class RandomContrast(_RandomBlend):
    """Random contrast: a factor below 1 brings the pixels closer to their mean."""

    def other(self, image: np.ndarray) -> Any:
        """Return the mean of all pixels."""
        return image.mean()


class RandomBrightness(_RandomBlend):
    """Random brightness: a factor below 1 makes the image darker."""

    def other(self, image: np.ndarray) -> Any:
        """Return black."""
        return 0


class RandomSaturation(_RandomBlend):
    """Random saturation of an RGB image: a factor below 1 makes it greyer."""

    def other(self, image: np.ndarray) -> Any:
        """Return the luminance of this image (H, W, 3)."""
        return image.dot(LUMINANCE)[:, :, None]


class RandomLighting(Augmentation):
    """Random colour of an RGB image along the principal components of ImageNet (Krizhevsky et al. 2012).

    Args:
        scale: standard deviation of the weights of the components.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a shift of the colours."""
        weights = np.random.normal(scale=self.scale, size=3)
        return BlendTransform(COLOUR_VECTORS.dot(weights * COLOUR_VALUES), 1.0, 1.0)


class MinIoURandomCrop(Augmentation):
    """Random crop that overlaps every box in it by at least a drawn IoU (Liu et al. 2016, SSD).

    Args:
        min_ious: thresholds to choose from, besides no crop and a crop of any overlap.
        min_crop_size: least side of a crop, relative to the image.
        mode_trials: maximum number of thresholds that are tried.
        crop_trials: crops that are tried for each threshold.
    """

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ) -> None:
        self.modes = (1.0, *min_ious, 0.0)
        self.min_crop_size = min_crop_size
        self.mode_trials, self.crop_trials = mode_trials, crop_trials

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        """Draw a crop of this image with boxes (N, 4) XYXY in px; without boxes do nothing."""
        height, width = image.shape[:2]
        for _ in range(self.mode_trials if boxes is not None else 0):
            mode = np.random.choice(self.modes)
            if mode == 1:
                break
            for _ in range(self.crop_trials):
                w, h = (np.random.uniform(self.min_crop_size * side, side) for side in (width, height))
                if not 0.5 <= h / w <= 2:
                    continue
                x0, y0 = np.random.uniform(width - w), np.random.uniform(height - h)
                crop = np.array([int(x0), int(y0), int(x0 + w), int(y0 + h)])
                if _suits(crop, np.asarray(boxes, np.float64), mode):
                    return CropTransform(
                        crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1], width, height
                    )
        return NoOpTransform()


def _suits(crop: np.ndarray, boxes: np.ndarray, min_iou: float) -> bool:
    """Return whether the crop contains the centre of a box and overlaps all boxes enough."""
    if (crop[2:] <= crop[:2]).any():
        return False
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    if not ((centres > crop[:2]) & (centres < crop[2:])).all(axis=1).any():
        return False
    sides = np.minimum(boxes[:, 2:], crop[2:]) - np.maximum(boxes[:, :2], crop[:2])
    common = sides.clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (crop[2:] - crop[:2]).prod()
    return bool((common / (areas - common)).min() >= min_iou)
