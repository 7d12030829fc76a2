"""The ground truth that people give a model, checked before anything is computed."""

from typing import Any

import torch
from torch import Tensor

from detexport.errors import InputError
from detexport.structures import Instances


def gt_instances_of(
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


def gt_sem_segs_of(batched_inputs: list[dict[str, Any]], device: torch.device) -> list[Tensor]:
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
