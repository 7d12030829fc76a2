"""A short training run."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from detexport.data.coco import CocoDataset
from detexport.data.mapping import GroundTruth, learnable, training_example
from detexport.errors import DataError


@dataclass(frozen=True)
class TrainingSettings:
    """Parameters of a training run.

    Args:
        iterations: number of optimizer steps.
        batch_size: images per step.
        learning_rate: peak of the schedule: linear warm-up, then a cosine down to 0.
        warmup_iterations: steps of the warm-up.
        weight_decay: of AdamW, for weights of more than one dimension.
        gradient_norm: upper limit of the norm of the gradient.
        average_decay: decay of the moving average of the weights, which is the result.
        flip: flip images horizontally with probability 0.5.
        seed: of the initial weights, the order of the images and the sampling of boxes.
        threads: number of CPU threads.
    """

    iterations: int
    batch_size: int
    learning_rate: float
    warmup_iterations: int
    weight_decay: float
    gradient_norm: float
    average_decay: float
    flip: bool
    seed: int
    threads: int


def seed_everything(seed: int) -> None:
    """Seed the random number generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def learning_rate_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate at a step as a fraction of the peak."""
    if step < settings.warmup_iterations:
        return (step + 1) / settings.warmup_iterations
    span = max(1, settings.iterations - settings.warmup_iterations)
    return 0.5 * (1 + math.cos(math.pi * (step - settings.warmup_iterations) / span))


def _batches(
    dataset: CocoDataset, model: Any, settings: TrainingSettings, truth: GroundTruth
) -> Iterator[list[dict[str, Any]]]:
    """Yield shuffled batches indefinitely; images without usable annotations are left out."""
    records = learnable(dataset.images, truth)
    if not records:
        raise DataError(
            f"{dataset.annotation_file} has no annotated image",
            got=f"{len(dataset.images)} images, none with an annotation of the classes"
            + (f" and {truth.min_keypoints} labelled keypoints" if truth.min_keypoints else ""),
            expected="at least one",
            remedy="check data.categories and the annotation file",
        )
    generator = random.Random(settings.seed)
    batch: list[dict[str, Any]] = []
    while True:
        generator.shuffle(records)
        for record in records:
            flip = settings.flip and generator.random() < 0.5
            batch.append(
                training_example(
                    record, model.input_format, truth, flip=flip, keypoint_flip=dataset.keypoint_flip
                )
            )
            if len(batch) == settings.batch_size:
                yield batch
                batch = []


def train(
    model: Any, dataset: CocoDataset, settings: TrainingSettings, truth: GroundTruth
) -> dict[str, Tensor]:
    """Train a model from its current weights.

    Args:
        model: built with the data set's number of classes; left in training mode.
        dataset: the training split.
        settings: parameters of the run.
        truth: kinds of annotations that the model is trained on.

    Returns:
        the averaged state dict, without ``num_batches_tracked`` of batch normalization.

    Raises:
        DataError: no image has usable annotations, or one lacks a kind of annotation in ``truth``.
        FloatingPointError: the loss is not finite.
    """
    model.train()
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay), use_buffers=True
    )
    batches = _batches(dataset, model, settings, truth)
    with tqdm(total=settings.iterations, desc="train", unit="step", smoothing=0.05) as progress:
        for step in range(settings.iterations):
            losses = model(next(batches))
            loss = sum(losses.values())
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}: {losses}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(decayed + others, settings.gradient_norm)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            progress.set_postfix(
                {name.removeprefix("loss_"): f"{value:.2f}" for name, value in losses.items()}
            )
            progress.update()
    return {
        name: value
        for name, value in average.module.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }
