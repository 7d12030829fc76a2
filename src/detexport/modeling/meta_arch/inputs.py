"""What people give a model, checked before anything is computed."""

import operator
from typing import Any

import torch
from torch import Tensor

from detexport.errors import InputError
from detexport.structures import Instances


def checked_image(example: Any, index: int, channels: int) -> Tensor:
    """The image of one input.

    Args:
        example: a dict with ``image``, (C, H, W), values 0..255 of any real dtype, and perhaps ``height`` and
            ``width``: see ``output_size``.
        index: its place in the batch, for errors.
        channels: C.

    Raises:
        InputError: it is not that.
    """
    if not isinstance(example, dict) or not isinstance(example.get("image"), Tensor):
        got = type(example).__name__
        if isinstance(example, dict):
            got = type(example["image"]).__name__ if "image" in example else f"keys {sorted(example)}"
        raise InputError(
            f"input {index} has no image",
            got=got,
            expected="a dict with a tensor (C, H, W) under 'image'",
            remedy="torch.as_tensor(array.transpose(2, 0, 1).copy()) makes one of an (H, W, C) array",
        )
    image: Tensor = example["image"]
    if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
        raise InputError(
            f"image {index} has a wrong shape",
            got=tuple(image.shape),
            expected=f"({channels}, height, width), at least 1 px high and wide",
            remedy="give one image a dict, its channels first",
        )
    if image.dtype == torch.bool or image.is_complex():
        raise InputError(
            f"image {index} holds no colours",
            got=image.dtype,
            expected="values 0..255 as torch.uint8 or another real dtype",
        )
    if image.is_floating_point() and not torch.isfinite(image).all():
        raise InputError(
            f"image {index} holds values that are not finite",
            got=f"{int((~torch.isfinite(image)).sum())} times NaN or infinity",
            expected="values 0..255",
        )
    output_size(example)
    return image


def output_size(example: dict[str, Any]) -> tuple[int, int]:
    """Height and width in px of the output that an input asks for, by default those of its image.

    Raises:
        InputError: only one of them is given, or one is not a positive whole number.
    """
    if "height" not in example and "width" not in example:
        return example["image"].shape[1], example["image"].shape[2]
    try:
        height, width = operator.index(example["height"]), operator.index(example["width"])
        if height > 0 and width > 0:
            return height, width
    except (KeyError, TypeError):
        pass
    raise InputError(
        "an input gives both height and width of the output, or neither",
        got=", ".join(f"{key}: {example[key]!r}" for key in ("height", "width") if key in example),
        expected="two positive whole numbers of px",
    )


def true_instances(
    batched_inputs: list[dict[str, Any]], device: torch.device, num_classes: int
) -> list[Instances]:
    """The ground truth of each image.

    Args:
        batched_inputs: each with ``instances``: ``gt_boxes`` and ``gt_classes``, in px of its image.
        device: where to put them.
        num_classes: classes that are told apart; 0 where none are.

    Raises:
        InputError: one is missing, is of another image, or has a class that the model does not.
    """
    found = []
    for index, example in enumerate(batched_inputs):
        instances: Instances = _required(example, "instances", index)
        size = tuple(example["image"].shape[1:])
        if tuple(instances.image_size) != size:
            raise InputError(
                f"the instances of input {index} are of an image of another size",
                got=f"(height, width) {tuple(instances.image_size)}",
                expected=f"{size}, as the image",
                remedy="transform the ground truth with the image",
            )
        if num_classes and len(instances) and instances.has("gt_classes"):
            low, high = int(instances.gt_classes.min()), int(instances.gt_classes.max())
            if low < 0 or high >= num_classes:
                raise InputError(
                    f"the instances of input {index} have a class that the model does not",
                    got=f"gt_classes from {low} to {high}",
                    expected=f"0 to {num_classes - 1}",
                    remedy="set the number of classes to that of the data",
                )
        found.append(instances.to(device))
    return found


def true_classes(batched_inputs: list[dict[str, Any]], device: torch.device) -> list[Tensor]:
    """The class of each pixel of each image.

    Args:
        batched_inputs: each with ``sem_seg`` (H, W), as large as its image.
        device: where to put them.

    Raises:
        InputError: one is missing, or is of another size.
    """
    found = []
    for index, example in enumerate(batched_inputs):
        classes: Tensor = _required(example, "sem_seg", index)
        if classes.shape != example["image"].shape[1:]:
            raise InputError(
                f"sem_seg of input {index} is of another size than the image",
                got=tuple(classes.shape),
                expected=tuple(example["image"].shape[1:]),
                remedy="transform the ground truth with the image",
            )
        found.append(classes.to(device))
    return found


def _required(example: dict[str, Any], key: str, index: int) -> Any:
    if key not in example:
        from_where = ", from records with sem_seg_file_name" if key == "sem_seg" else ""
        raise InputError(
            f"input {index} has nothing to learn from",
            got=f"keys {sorted(example)}",
            expected=f"{key!r} with the ground truth, in training",
            remedy=f"map the data with is_train=True{from_where}, or call model.eval() to detect",
        )
    return example[key]
