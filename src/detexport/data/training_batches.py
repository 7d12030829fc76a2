"""Batches of training examples without end, in an order that the seed determines."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from detexport.data.augmentation import Augmentation
from detexport.data.build import trivial_batch_collator
from detexport.data.coco import CocoDataset, CocoRecord
from detexport.data.mapping import GroundTruth, learnable, training_example
from detexport.errors import DataError


@dataclass(frozen=True)
class Draw:
    """An image of a batch.

    Args:
        index: of its record.
        flip: whether it is flipped horizontally.
        seed: of its augmentation.
    """

    index: int
    flip: bool
    seed: int


@dataclass(frozen=True)
class Order:
    """Order of the images.

    Args:
        batch_size: number of images of a batch, of all processes together.
        seed: of the order and the flips.
        flip: flip images with probability 0.5.
        by_orientation: whether all images of a batch are landscape, or all portrait.
    """

    batch_size: int
    seed: int
    flip: bool
    by_orientation: bool = False


class TrainingBatches(Sampler[list[Draw]]):
    """Batches of shuffled epochs, each over all images, as the share of one process of several.

    The share of a process depends on the seed and its rank alone, so the sequence continues after any number
    of batches: the first ones are drawn again without reading an image.

    Args:
        records: the images.
        order: see ``Order``.
        start: number of batches to leave out.
        rank: index of the process.
        world_size: number of processes; it divides the batch size.
    """

    def __init__(
        self,
        records: Sequence[CocoRecord],
        order: Order,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.records = records
        self.order = order
        self.start = start
        share = order.batch_size // world_size
        self.share = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in itertools.islice(self._batches(), self.start, None):
            yield batch[self.share]

    def _batches(self) -> Iterator[list[Draw]]:
        waiting: dict[bool, list[Draw]] = {True: [], False: []}
        for draw in self._draws():
            record = self.records[draw.index]
            batch = waiting[self.order.by_orientation and record.width > record.height]
            batch.append(draw)
            if len(batch) == self.order.batch_size:
                yield list(batch)
                batch.clear()

    def _draws(self) -> Iterator[Draw]:
        generator = random.Random(self.order.seed)
        indices = list(range(len(self.records)))
        number = itertools.count()
        while True:
            generator.shuffle(indices)
            for index in indices:
                flip = self.order.flip and generator.random() < 0.5
                yield Draw(index, flip, (self.order.seed << 32) + next(number))


class TrainingExamples(Dataset):
    """Images with their ground truth, by ``Draw``.

    Args:
        records: the images.
        channel_order: order of the channels.
        truth: kinds of annotations to include.
        keypoint_flip: see ``training_example``.
        augmentations: transforms, see ``Augmentation``; none leave the images as they are.
    """

    def __init__(
        self,
        records: Sequence[CocoRecord],
        channel_order: Literal["RGB", "BGR"],
        truth: GroundTruth,
        *,
        keypoint_flip: Sequence[int] = (),
        augmentations: Sequence[Any] = (),
    ) -> None:
        self.records = records
        self.channel_order = channel_order
        self.truth = truth
        self.keypoint_flip = keypoint_flip
        self.augmentation = Augmentation(augmentations) if augmentations else None

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        example = training_example(
            self.records[draw.index],
            self.channel_order,
            self.truth,
            flip=draw.flip,
            keypoint_flip=self.keypoint_flip,
        )
        return self.augmentation(example, draw.seed) if self.augmentation else example


def learnable_records(dataset: CocoDataset, truth: GroundTruth) -> list[CocoRecord]:
    """Return the images of a split that a model can be trained on: see ``learnable``.

    Raises:
        DataError: there is none.
    """
    records = learnable(dataset.images, truth)
    if not records:
        raise DataError(
            f"{dataset.annotation_file} has no annotated image",
            got=f"{len(dataset.images)} images, none with an annotation of the classes"
            + (f" and {truth.min_keypoints} labelled keypoints" if truth.min_keypoints else ""),
            expected="at least one",
            remedy="check data.categories and the annotation file",
        )
    return records


def build_training_loader(batches: TrainingBatches, examples: TrainingExamples, workers: int = 0) -> Any:
    """Return a loader of lists of examples without end; the number of workers does not change them.

    Args:
        batches: the draws of each batch.
        examples: the images.
        workers: number of processes that read and augment; 0: this process.
    """
    return DataLoader(
        examples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=trivial_batch_collator,
        # Of its own, so that the loader does not draw from the generator of the model.
        generator=torch.Generator().manual_seed(batches.order.seed),
    )
