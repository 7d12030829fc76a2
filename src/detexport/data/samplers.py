"""Which images to take next, as indices into a data set."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from detexport.errors import DataError


class TrainingSampler(Sampler[int]):
    """All images again and again, without end.

    Args:
        size: images of the data set.
        shuffle: each time in another order.
        seed: of the orders; None draws one.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if size <= 0:
            raise DataError(
                "there is no image to learn from",
                got=f"a data set of {size} images",
                expected="at least one",
                remedy="check the data set, and DATALOADER.FILTER_EMPTY_ANNOTATIONS",
            )
        self._size = size
        self._shuffle = shuffle
        self._seed = _drawn(seed)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            order = torch.randperm(self._size, generator=generator) if self._shuffle else range(self._size)
            yield from map(int, order)


class RepeatFactorTrainingSampler(Sampler[int]):
    """All images again and again, those with rare categories more often.

    Gupta et al. 2019, arXiv:1908.03195.

    Args:
        repeat_factors: (N,) how often to take each image, at least once; of 2.25 the quarter is drawn.
        shuffle: each time in another order.
        seed: of the orders and the draws; None draws one.
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
        """(N,) the factor of each image: that of its rarest category.

        A category's factor is max(1, sqrt(threshold / the part of the images that have it)).

        Args:
            dataset_dicts: records with annotations.
            repeat_thresh: the part below which a category is rare.
            sqrt: take the root; without it the factor is linear in the threshold.
        """
        classes = [{a["category_id"] for a in record["annotations"]} for record in dataset_dicts]
        counts = Counter(itertools.chain.from_iterable(classes))
        ratios = {c: repeat_thresh * len(dataset_dicts) / count for c, count in counts.items()}
        factors = {c: max(1.0, math.sqrt(ratio) if sqrt else ratio) for c, ratio in ratios.items()}
        return torch.tensor([max((factors[c] for c in found), default=1.0) for found in classes])

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            drawn = torch.rand(len(self._part), generator=generator) < self._part
            times = (self._whole + drawn).to(torch.int64)
            indices = torch.arange(len(times)).repeat_interleave(times)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()


class InferenceSampler(Sampler[int]):
    """Each image once, in order.

    Args:
        size: images of the data set.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __iter__(self) -> Iterator[int]:
        yield from range(self._size)

    def __len__(self) -> int:
        return self._size


def _drawn(seed: int | None) -> int:
    return int(torch.randint(2**31, ()).item()) if seed is None else seed
