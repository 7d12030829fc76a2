"""Augmentation of training examples by torchvision's transforms (``torchvision.transforms.v2``).

Shapes: R instances, K keypoints.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from detexport.contract import ResizeRule
from detexport.data.resize import resize_image, resized_size
from detexport.data.transforms import RandomCrop
from detexport.errors import ConfigError
from detexport.structures import BitMasks, Boxes, Instances, Keypoints


class ShortestEdge(v2.Transform):
    """Resize the shortest edge to a drawn length, unless the longest would exceed ``max_size``.

    Size and pixels are those of the resize of the evaluation.

    Args:
        sizes: lengths in px to choose from, or with ``sampling="range"`` the least and the greatest.
        max_size: of the longest edge, in px.
        sampling: ``"choice"`` or ``"range"``.

    Raises:
        ConfigError: the lengths do not fit the sampling.
    """

    def __init__(self, sizes: Sequence[int], max_size: int = 1333, sampling: str = "choice") -> None:
        super().__init__()
        self.sizes, self.max_size, self.sampling = tuple(sizes), max_size, sampling
        if sampling not in ("choice", "range") or not sizes or (sampling == "range" and len(sizes) != 2):
            raise ConfigError(
                "the lengths of the shortest edge do not fit their sampling",
                got=f"{list(sizes)} with {sampling!r}",
                expected="lengths to choose from with 'choice', the least and the greatest with 'range'",
                remedy="correct MIN_SIZE_TRAIN and MIN_SIZE_TRAIN_SAMPLING of INPUT, or the augmentation",
            )

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the height and width of the resized image, in px."""
        lengths = self.sizes
        if self.sampling == "range":
            lengths = tuple(range(lengths[0], lengths[1] + 1))
        rule = ResizeRule(lengths[int(torch.randint(len(lengths), ()))], self.max_size)
        height, width = v2.query_size(flat_inputs)
        return {"size": resized_size(height, width, rule)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image, or its boxes, masks or keypoints."""
        if isinstance(inpt, tv_tensors.Image):
            pixels = resize_image(inpt.numpy(), params["size"])
            return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(pixels)))
        return v2.functional.resize(inpt, list(params["size"]))

    def extra_repr(self) -> str:
        """Describe the lengths."""
        return f"sizes={self.sizes}, max_size={self.max_size}, sampling={self.sampling!r}"


class Crop(v2.Transform):
    """Crop at a random position.

    Args:
        crop_type: see ``detexport.data.transforms.RandomCrop``.
        size: two numbers: height and width.
    """

    def __init__(self, crop_type: str, size: Sequence[float]) -> None:
        super().__init__()
        self.crop = RandomCrop(crop_type, size)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the crop: its upper left corner, height and width in px."""
        image_size = v2.query_size(flat_inputs)
        height, width = self.crop.get_crop_size(image_size)
        top, left = (
            int(torch.randint(whole - part + 1, ()))
            for whole, part in zip(image_size, (height, width), strict=True)
        )
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop an image, or its boxes, masks or keypoints."""
        return v2.functional.crop(inpt, **params)

    def extra_repr(self) -> str:
        """Describe the crop."""
        return f"crop_type={self.crop.crop_type!r}, size={self.crop.crop_size}"


TIGHTENED = (
    Crop,
    v2.CenterCrop,
    v2.RandomCrop,
    v2.RandomIoUCrop,
    v2.RandomResizedCrop,
    v2.RandomRotation,
    v2.RandomAffine,
    v2.RandomPerspective,
    v2.ElasticTransform,
)
"""Transforms after which the box of an object may be larger than its visible part."""
FLIPS = (v2.RandomHorizontalFlip, v2.RandomVerticalFlip)
UNLABELLED = 255
"""Class of the pixels of a map of classes that are not of the image."""
OF_THE_IMAGE = 1000
"""Mark of the pixels of the image; no fill of a transform, a value of a pixel, is as large."""


class Augmentation:
    """Random transforms of an image with its ground truth.

    Args:
        transforms: transforms of ``torchvision.transforms.v2`` and of this module, in order.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = v2.Compose(list(transforms))
        self.tightened = any(isinstance(one, TIGHTENED) for one in _nested(transforms))
        self.flips = any(isinstance(one, FLIPS) for one in _nested(transforms))

    def __call__(self, example: dict[str, Any], seed: int) -> dict[str, Any]:
        """Transform a training example.

        Instances with an empty box or mask are left out, and keypoints outside the image are unlabelled.
        If a transform can cut off parts of an object and it has a mask, its box is that of its mask.
        Pixels that a transform adds at a border are unlabelled, and not of a mask.

        Args:
            example: see ``detexport.data.mapping.training_example``.
            seed: determines the transforms; the global generators are left as they are.

        Raises:
            ConfigError: a transform flips keypoints, whose left and right it would not swap.
        """
        if self.flips and example["instances"].has("gt_keypoints"):
            raise ConfigError(
                "torchvision's flips do not swap left and right keypoints",
                got=str(self.transforms),
                expected="augmentations without flips",
                remedy="use the option flip of the training",
            )
        with _seeded(seed):
            values = self.transforms(_as_tv_tensors(example))
        return self._as_example(values)

    def _as_example(self, values: dict[str, Any]) -> dict[str, Any]:
        height, width = values["image"].shape[-2:]
        instances = Instances((height, width), gt_boxes=Boxes(_plain(values["boxes"])))
        instances.gt_classes = values["classes"]
        instances.gt_boxes.clip((height, width))
        if "masks" in values:
            instances.gt_masks = BitMasks(_plain(values["masks"]) == 1)  # a border may have another value
            if self.tightened:
                instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        if "keypoints" in values:
            instances.gt_keypoints = _labelled(values["keypoints"], values["visibility"], (height, width))
        kept = instances.gt_boxes.nonempty()
        if "masks" in values:
            kept &= instances.gt_masks.nonempty()
        example = {"image": _plain(values["image"]), "instances": instances[kept]}
        if "sem_seg" in values:
            of_the_image = _plain(values["of_the_image"]) == OF_THE_IMAGE
            example["sem_seg"] = torch.where(of_the_image, _plain(values["sem_seg"]), UNLABELLED)
        return example


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch and numpy in this block; both use 32 bits of a seed."""
    state = np.random.get_state()
    (hashed,) = np.random.SeedSequence(seed).generate_state(1).tolist()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hashed)
        np.random.seed(hashed)
        try:
            yield
        finally:
            np.random.set_state(state)


def _nested(transforms: Iterable[Any]) -> Iterator[Any]:
    """Yield transforms and those inside them, as in ``RandomApply``."""
    for one in transforms:
        yield one
        inner = getattr(one, "transforms", None) or (one.children() if isinstance(one, nn.Module) else ())
        yield from _nested(inner)


def _as_tv_tensors(example: dict[str, Any]) -> dict[str, Any]:
    instances = example["instances"]
    size = instances.image_size
    values = {
        "image": tv_tensors.Image(example["image"]),
        "boxes": tv_tensors.BoundingBoxes(instances.gt_boxes.tensor, format="XYXY", canvas_size=size),
        "classes": instances.gt_classes,
    }
    if instances.has("gt_masks"):
        values["masks"] = tv_tensors.Mask(instances.gt_masks.tensor.to(torch.uint8))
    if instances.has("gt_keypoints"):
        keypoints = instances.gt_keypoints.tensor
        values["keypoints"] = tv_tensors.KeyPoints(keypoints[..., :2], canvas_size=size)
        values["visibility"] = keypoints[..., 2:]
    if "sem_seg" in example:
        values["sem_seg"] = tv_tensors.Mask(example["sem_seg"])
        values["of_the_image"] = tv_tensors.Mask(torch.full(size, OF_THE_IMAGE, dtype=torch.int32))
    return values


def _plain(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor)


def _labelled(points: Tensor, visibility: Tensor, image_size: tuple[int, int]) -> Keypoints:
    """Return keypoints (R, K, 3); those outside the image or unlabelled are all 0."""
    points = _plain(points)
    limits = torch.tensor(image_size[::-1], dtype=points.dtype)
    inside = ((points >= 0) & (points <= limits)).all(dim=-1, keepdim=True)
    visibility = torch.where(inside, visibility, 0)
    return Keypoints(torch.where(visibility > 0, torch.cat((points, visibility), dim=-1), 0))
