"""Metrics of a training run by iteration, and writers that print or store them.

A model in training records into the active ``EventStorage``, if there is one::

    with EventStorage() as storage:
        losses = model(inputs)
    storage.latest()  # {"rpn/num_pos_anchors": (12.5, 0), ...}
"""

import datetime
import json
import logging
import statistics
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detexport.errors import RuntimeUnavailableError

_active: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Return the storage of the innermost ``with EventStorage()``.

    Raises:
        RuntimeError: no storage is active.
    """
    if not _active:
        raise RuntimeError("no event storage is active; call this inside `with EventStorage():`")
    return _active[-1]


def has_event_storage() -> bool:
    """Return whether a storage is active, so that callers can skip the computation of values."""
    return bool(_active)


def is_recorded(period: int) -> bool:
    """Return whether a storage is active whose iteration ends a period; a period of 0 never ends."""
    return period > 0 and has_event_storage() and get_event_storage().iter % period == 0


def record(name: str, value: Callable[[], Any]) -> None:
    """Record a scalar in the active storage; without one ``value`` is not called."""
    if has_event_storage():
        get_event_storage().put_scalar(name, value())


def name_scope(name: str) -> AbstractContextManager[None]:
    """Return the ``name_scope`` of the active storage; without one a null context."""
    return get_event_storage().name_scope(name) if has_event_storage() else nullcontext()


class HistoryBuffer:
    """History of one scalar.

    Args:
        max_length: number of the newest values to keep.
    """

    def __init__(self, max_length: int = 1_000_000) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=max_length)
        self._count = 0
        self._sum = 0.0

    def update(self, value: float, iteration: float | None = None) -> None:
        """Append a value; its iteration is by default the number of values before it."""
        self._values.append((value, self._count if iteration is None else iteration))
        self._count += 1
        self._sum += value

    def latest(self) -> float:
        """Return the newest value."""
        return self._values[-1][0]

    def median(self, window_size: int) -> float:
        """Return the median of the newest ``window_size`` values."""
        return statistics.median(self._newest(window_size))

    def avg(self, window_size: int) -> float:
        """Return the mean of the newest ``window_size`` values."""
        return statistics.fmean(self._newest(window_size))

    def global_avg(self) -> float:
        """Return the mean of all values, including those no longer kept."""
        return self._sum / self._count

    def values(self) -> list[tuple[float, float]]:
        """Return the kept values, each with its iteration."""
        return list(self._values)

    def _newest(self, window_size: int) -> list[float]:
        return [value for value, _ in list(self._values)[-window_size:]]


class EventStorage:
    """Recorded values of a run by name and iteration; active inside its ``with`` block.

    Args:
        start_iter: first iteration.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothed: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._prefix = ""
        # Only the newest of each name: images are large, and writers do not run at each iteration.
        self.images: dict[str, tuple[Any, int]] = {}
        self.histograms: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Record a scalar.

        Args:
            name: name within the current name scope.
            value: a number, or a tensor with one element.
            smoothing_hint: whether writers show the median of the newest values instead of the newest.
            cur_iter: iteration of the value, by default that of the storage.

        Raises:
            ValueError: the scalar was recorded with another ``smoothing_hint``.
        """
        name, number = self._prefix + name, float(value)
        if self._smoothed.setdefault(name, smoothing_hint) != smoothing_hint:
            raise ValueError(f"scalar {name!r} was recorded with another smoothing_hint")
        iteration = self.iter if cur_iter is None else cur_iter
        self._histories[name].update(number, iteration)
        self._latest[name] = (number, iteration)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **scalars: Any
    ) -> None:
        """Record several scalars by name: see ``put_scalar``."""
        for name, value in scalars.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Record an image, (3, H, W), uint8 or float in [0, 1]; it replaces the last one of its name."""
        self.images[self._prefix + img_name] = (img_tensor, self.iter)

    def put_histogram(self, hist_name: str, hist_tensor: Any, bins: int = 1000) -> None:
        """Record a histogram of a tensor; it replaces the last one of its name."""
        values = hist_tensor.detach().cpu() if hasattr(hist_tensor, "detach") else hist_tensor
        counts, edges = np.histogram(np.asarray(values), bins=bins)
        self.histograms[self._prefix + hist_name] = (counts, edges, self.iter)

    def history(self, name: str) -> HistoryBuffer:
        """Return the history of a scalar.

        Raises:
            KeyError: no scalar of this name was recorded.
        """
        if name not in self._histories:
            raise KeyError(f"no scalar {name!r}; those recorded are {sorted(self._histories)}")
        return self._histories[name]

    def histories(self) -> Mapping[str, HistoryBuffer]:
        """Return the histories of all scalars by name."""
        return dict(self._histories)

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the newest value of each scalar and its iteration."""
        return dict(self._latest)

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return the newest value of each scalar, or its median if it is smoothed, and its iteration."""
        return {
            name: (self._histories[name].median(window_size) if self._smoothed[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def smoothing_hints(self) -> dict[str, bool]:
        """Return for each scalar whether it is to be smoothed."""
        return dict(self._smoothed)

    def step(self) -> None:
        """Advance to the next iteration; call it once per iteration, after recording."""
        self.iter += 1

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix all names that are recorded inside the ``with`` block with ``name/``."""
        before = self._prefix
        self._prefix = f"{before}{name.rstrip('/')}/"
        try:
            yield
        finally:
            self._prefix = before

    def clear_images(self) -> None:
        """Remove all images."""
        self.images.clear()

    def clear_histograms(self) -> None:
        """Remove all histograms."""
        self.histograms.clear()

    def __enter__(self) -> "EventStorage":
        _active.append(self)
        return self

    def __exit__(self, *_exception: object) -> None:
        _active.pop()


class EventWriter(Protocol):
    """A consumer of the active storage, called periodically."""

    def write(self) -> None:
        """Write the new values of the active storage."""

    def close(self) -> None:
        """Release resources; ``write`` is not called afterwards."""


class _New:
    """Callable that returns the scalars of the active storage since its last call, by iteration."""

    def __init__(self, window_size: int) -> None:
        self._window_size = window_size
        self._last_iter = -1

    def __call__(self) -> dict[int, dict[str, float]]:
        scalars: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in (
            get_event_storage().latest_with_smoothing_hint(self._window_size).items()
        ):
            if iteration > self._last_iter:
                scalars[iteration][name] = value
        self._last_iter = max([self._last_iter, *scalars])
        return dict(sorted(scalars.items()))


class JSONWriter:
    """Writer of one JSON line per iteration: the scalars by name, and ``iteration``.

    Args:
        json_file: file to append to.
        window_size: number of values in the median of a smoothed scalar.
    """

    def __init__(self, json_file: str | Path, window_size: int = 20) -> None:
        self._file = Path(json_file).open("a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._new = _New(window_size)

    def write(self) -> None:
        """Write the scalars that are new in the active storage."""
        for iteration, scalars in self._new().items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CommonMetricPrinter:
    """Writer of log lines with losses, times and the learning rate.

    Args:
        max_iter: iterations of the run, for the remaining time; None leaves it out.
        window_size: number of values in the median of a smoothed scalar.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self._logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        self._last: tuple[int, float] | None = None

    def write(self) -> None:
        """Log the newest values of the active storage, unless the run is over."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        values = storage.latest_with_smoothing_hint(self._window_size)
        parts = [f"iter: {storage.iter}"]
        eta_s = self._eta_s(storage)
        if eta_s is not None:
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(eta_s))}")
        parts += [f"{name}: {value:.4g}" for name, (value, _) in values.items() if "loss" in name]
        parts += [f"{name}: {values[name][0]:.4f}" for name in ("time", "data_time") if name in values]
        if "lr" in values:
            parts.append(f"lr: {values['lr'][0]:.5g}")
        parts += [f"max_mem: {_peak_device_memory_mb():.0f}M"] if _peak_device_memory_mb() else []
        self._logger.info("  ".join(parts))

    def close(self) -> None:
        """Do nothing: a logger needs no closing."""

    def _eta_s(self, storage: EventStorage) -> float | None:
        """Return the remaining seconds, from the scalar ``time`` or else the time since the last line."""
        if self._max_iter is None:
            return None
        left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            return storage.history("time").median(1000) * left
        now, before = time.perf_counter(), self._last
        self._last = (storage.iter, now)
        if before is None or storage.iter == before[0]:
            return None
        return (now - before[1]) / (storage.iter - before[0]) * left


class TensorboardXWriter:
    """Writer of TensorBoard event files, with images and histograms; needs the package ``tensorboard``.

    Args:
        log_dir: folder of the event files.
        window_size: number of values in the median of a smoothed scalar.
        **kwargs: arguments of ``torch.utils.tensorboard.SummaryWriter``.

    Raises:
        RuntimeUnavailableError: the package is not installed.
    """

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RuntimeUnavailableError(
                "TensorboardXWriter needs the package tensorboard",
                got=str(error),
                expected="an installed tensorboard",
                remedy="pip install tensorboard, or write with JSONWriter",
            ) from error
        self._new = _New(window_size)
        self._writer = SummaryWriter(log_dir, **kwargs)

    def write(self) -> None:
        """Write the new values of the active storage, and remove its images and histograms."""
        storage = get_event_storage()
        for iteration, scalars in self._new().items():
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, iteration)
        for name, (image, iteration) in storage.images.items():
            self._writer.add_image(name, image, iteration)
        for name, (counts, edges, iteration) in storage.histograms.items():
            centers = (edges[:-1] + edges[1:]) / 2
            self._writer.add_histogram_raw(
                name,
                min=edges[0],
                max=edges[-1],
                num=int(counts.sum()),
                sum=float(counts @ centers),
                sum_squares=float(counts @ centers**2),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=iteration,
            )
        storage.clear_images()
        storage.clear_histograms()

    def close(self) -> None:
        """Close the event files."""
        self._writer.close()


def _peak_device_memory_mb() -> float:
    """Return the peak memory of the CUDA device; 0 without one. It does not import torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.max_memory_allocated()) / 1024**2
