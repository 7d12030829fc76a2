"""Checks of the ground truth in a model's training inputs."""

from typing import Any

import torch
from torch import Tensor

from detexport.errors import InputError
from detexport.structures import Instances


def gt_instances_of(
    batched_inputs: list[dict[str, Any]], device: torch.device, num_classes: int
) -> list[Instances]:
    """Return the ground truth of each image.

    Args:
        batched_inputs: each with ``instances``: ``gt_boxes`` in px of its image, and ``gt_classes``.
        device: device of the result.
        num_classes: K; 0 skips the check of ``gt_classes``.

    Raises:
        InputError: ``instances`` is missing, has another image size, or has a class that the model lacks.
    """
    gt_instances = []
    for index, example in enumerate(batched_inputs):
        instances: Instances = _required(example, "instances", index)
        size = tuple(example["image"].shape[1:])
        if tuple(instances.image_size) != size:
            raise InputError(
                f"the instances of input {index} have another image size",
                got=f"(height, width) {tuple(instances.image_size)}",
                expected=f"{size}, as the image",
                remedy="transform the ground truth with the image",
            )
        if num_classes and len(instances) and instances.has("gt_classes"):
            low, high = int(instances.gt_classes.min()), int(instances.gt_classes.max())
            if low < 0 or high >= num_classes:
                raise InputError(
                    f"the instances of input {index} have a class that the model lacks",
                    got=f"gt_classes from {low} to {high}",
                    expected=f"0 to {num_classes - 1}",
                    remedy="set the number of classes to that of the data",
                )
        gt_instances.append(instances.to(device))
    return gt_instances


def gt_sem_segs_of(batched_inputs: list[dict[str, Any]], device: torch.device) -> list[Tensor]:
    """Return the class of each pixel of each image.

    Args:
        batched_inputs: each with ``sem_seg`` (H, W), as large as its image.
        device: device of the result.

    Raises:
        InputError: ``sem_seg`` is missing or has another size.
    """
    gt_sem_segs = []
    for index, example in enumerate(batched_inputs):
        classes: Tensor = _required(example, "sem_seg", index)
        if classes.shape != example["image"].shape[1:]:
            raise InputError(
                f"sem_seg of input {index} has another size than the image",
                got=tuple(classes.shape),
                expected=tuple(example["image"].shape[1:]),
                remedy="transform the ground truth with the image",
            )
        gt_sem_segs.append(classes.to(device))
    return gt_sem_segs


def _required(example: dict[str, Any], key: str, index: int) -> Any:
    if key not in example:
        from_where = ", from records with sem_seg_file_name" if key == "sem_seg" else ""
        raise InputError(
            f"input {index} has no ground truth",
            got=f"keys {sorted(example)}",
            expected=f"{key!r}, in training",
            remedy=f"map the data with is_train=True{from_where}, or call model.eval() to detect",
        )
    return example[key]
