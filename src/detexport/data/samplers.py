"""Samplers: the order of images, as indices into a data set."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from detexport.errors import DataError
from detexport.utils import comm


class TrainingSampler(Sampler[int]):
    """An infinite sequence of passes over all images, shared by the processes of a distributed run.

    All processes draw the same sequence; each yields every ``world_size``-th index of it.

    Args:
        size: number of images.
        shuffle: whether to shuffle each pass.
        seed: seed of the order; it must be the same in all processes. None draws one.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if size <= 0:
            raise DataError(
                "there is no image to train on",
                got=f"a data set of {size} images",
                expected="at least one",
                remedy="check the data set, and DATALOADER.FILTER_EMPTY_ANNOTATIONS",
            )
        self._size = size
        self._shuffle = shuffle
        self._seed = _drawn(seed)

    def __iter__(self) -> Iterator[int]:
        return _of_this_process(self._passes())

    def _passes(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            order = torch.randperm(self._size, generator=generator) if self._shuffle else range(self._size)
            yield from map(int, order)


class RandomSubsetTrainingSampler(Sampler[int]):
    """An infinite sequence of epochs over a random subset of the images, the same in each epoch.

    Args:
        size: number of images.
        subset_ratio: fraction of the images in the subset, more than 0 and at most 1.
        shuffle: whether to shuffle each epoch.
        seed_shuffle: of the order; None draws one.
        seed_subset: of the subset; None draws one.
    """

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        if not 0 < subset_ratio <= 1:
            raise ValueError(f"subset_ratio is more than 0 and at most 1, got {subset_ratio}")
        generator = torch.Generator().manual_seed(_drawn(seed_subset))
        self._subset = torch.randperm(size, generator=generator)[: int(size * subset_ratio)]
        self._order = TrainingSampler(len(self._subset), shuffle=shuffle, seed=seed_shuffle)

    def __iter__(self) -> Iterator[int]:
        return (int(self._subset[index]) for index in self._order)


class RepeatFactorTrainingSampler(Sampler[int]):
    """An infinite sequence of epochs over all images that repeats images with rare categories.

    Gupta et al. 2019, arXiv:1908.03195.

    Args:
        repeat_factors: (N,) repetitions of each image per epoch, at least 1; the fraction is rounded
            randomly.
        shuffle: whether to shuffle each epoch.
        seed: of the order and the rounding; None draws one.
    """

    def __init__(self, repeat_factors: Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        self._whole = repeat_factors.floor()
        self._part = repeat_factors - self._whole
        self._shuffle = shuffle
        self._seed = _drawn(seed)

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: Sequence[dict[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> Tensor:
        """Return the (N,) factors of the images: that of the rarest category of each.

        The factor of a category is max(1, sqrt(threshold / fraction of the images that have it)).

        Args:
            dataset_dicts: records with annotations.
            repeat_thresh: fraction of the images below which a category is rare.
            sqrt: whether to take the square root.
        """
        classes = [{a["category_id"] for a in record["annotations"]} for record in dataset_dicts]
        counts = Counter(itertools.chain.from_iterable(classes))
        ratios = {c: repeat_thresh * len(dataset_dicts) / count for c, count in counts.items()}
        factors = {c: max(1.0, math.sqrt(ratio) if sqrt else ratio) for c, ratio in ratios.items()}
        return torch.tensor([max((factors[c] for c in found), default=1.0) for found in classes])

    def __iter__(self) -> Iterator[int]:
        return _of_this_process(self._passes())

    def _passes(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            drawn = torch.rand(len(self._part), generator=generator) < self._part
            times = (self._whole + drawn).to(torch.int64)
            indices = torch.arange(len(times)).repeat_interleave(times)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()


class InferenceSampler(Sampler[int]):
    """Yield each image once, in order; each process of a distributed run has one of ``world_size`` ranges.

    Args:
        size: number of images.
    """

    def __init__(self, size: int) -> None:
        rank, processes = comm.get_rank(), comm.get_world_size()
        self._indices = range(size * rank // processes, size * (rank + 1) // processes)

    def __iter__(self) -> Iterator[int]:
        yield from self._indices

    def __len__(self) -> int:
        return len(self._indices)


def _of_this_process(indices: Iterator[int]) -> Iterator[int]:
    return itertools.islice(indices, comm.get_rank(), None, comm.get_world_size())


def _drawn(seed: int | None) -> int:
    return comm.shared_random_seed() if seed is None else seed
