"""Hooks of a training: what runs beside the iterations, under detectron2's names and arguments."""

import datetime
import itertools
import logging
import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from detexport.checkpoint import PeriodicCheckpointer as _Checkpoints
from detexport.engine.train_loop import HookBase
from detexport.errors import ConfigError
from detexport.evaluation.testing import flatten_results_dict
from detexport.utils import comm
from detexport.utils.events import EventWriter

logger = logging.getLogger(__name__)
Callback = Callable[[Any], Any]


class CallbackHook(HookBase):
    """A hook of functions, each called with the trainer.

    Args:
        before_train: called before the first iteration.
        after_train: called after the last one.
        before_step: called before each iteration.
        after_step: called after each iteration.
    """

    def __init__(
        self,
        *,
        before_train: Callback | None = None,
        after_train: Callback | None = None,
        before_step: Callback | None = None,
        after_step: Callback | None = None,
    ) -> None:
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, name: str) -> None:
        callback = self._callbacks[name]
        if callback is not None:
            callback(self.trainer)

    def before_train(self) -> None:
        """Call ``before_train``."""
        self._call("before_train")

    def after_train(self) -> None:
        """Call ``after_train``, and forget the functions, which may refer to the trainer."""
        self._call("after_train")
        self._callbacks = dict.fromkeys(self._callbacks)

    def before_step(self) -> None:
        """Call ``before_step``."""
        self._call("before_step")

    def after_step(self) -> None:
        """Call ``after_step``."""
        self._call("after_step")


class IterationTimer(HookBase):
    """Record the seconds of each iteration as ``time``, and log those of the training.

    Args:
        warmup_iter: first iterations, which are not recorded.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step_start = self._train_start = time.perf_counter()
        self._measured: list[float] = []

    def before_train(self) -> None:
        """Start the clock of the training."""
        self._train_start = time.perf_counter()
        self._measured = []

    def after_train(self) -> None:
        """Log the time per iteration, and that of the hooks."""
        if not self._measured:
            return
        total, steps = time.perf_counter() - self._train_start, sum(self._measured)
        logger.info(
            "%d iterations in %s (%.4f s / it), hooks included in %s",
            len(self._measured),
            datetime.timedelta(seconds=int(steps)),
            steps / len(self._measured),
            datetime.timedelta(seconds=int(total)),
        )

    def before_step(self) -> None:
        """Start the clock of the iteration."""
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        """Record the time of the iteration, unless it is a first one."""
        if self.trainer.iter - self.trainer.start_iter < self._warmup_iter:
            return
        seconds = time.perf_counter() - self._step_start
        self._measured.append(seconds)
        self.trainer.storage.put_scalars(time=seconds)


class PeriodicWriter(HookBase):
    """Call writers at each ``period`` iterations and after the last one.

    Args:
        writers: with ``write`` and ``close``.
        period: iterations between two calls.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        """Write at the end of a period and of the training."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        """Write what is new, and close the writers."""
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_Checkpoints, HookBase):
    """``detexport.checkpoint.PeriodicCheckpointer`` as a hook."""

    def before_train(self) -> None:
        """Take over the number of iterations."""
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        """Save a checkpoint at the end of a period and of the training."""
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Save a checkpoint whenever a recorded metric is better than before.

    Args:
        eval_period: period of the ``EvalHook``, which is registered before.
        checkpointer: saves the checkpoint.
        val_metric: name of the metric, such as ``"bbox/AP"``.
        mode: whether greater or smaller values are better, ``"max"`` or ``"min"``.
        file_prefix: name of the file.

    Raises:
        ConfigError: the mode is unknown.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Any,
        val_metric: str,
        mode: Literal["max", "min"] = "max",
        file_prefix: str = "model_best",
    ) -> None:
        if mode not in ("max", "min"):
            raise ConfigError(
                "unknown mode of BestCheckpointer", got=mode, expected="max or min", remedy="correct mode"
            )
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self) -> None:
        """Compare the metric at the end of a period, except the last."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._compare()

    def after_train(self) -> None:
        """Compare the metric of a complete training."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._compare()

    def _compare(self) -> None:
        found = self.trainer.storage.latest().get(self._val_metric)
        if found is None:
            logger.warning("no metric %s is recorded: no best checkpoint is saved", self._val_metric)
            return
        value, iteration = found
        if not math.isfinite(value) or (
            self.best_metric is not None and not self._better(value, self.best_metric)
        ):
            return
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info("%s %.5f at iteration %d is the best so far", self._val_metric, value, iteration)


class LRScheduler(HookBase):
    """Step a learning rate schedule after each iteration, and record the rate as ``lr``.

    Args:
        optimizer: by default the trainer's.
        scheduler: by default the trainer's.
    """

    def __init__(self, optimizer: Optimizer | None = None, scheduler: Any = None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self) -> None:
        """Find the group of parameters whose rate is recorded: the largest, of the most frequent rate."""
        self._optimizer = self._optimizer or self.trainer.optimizer
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        common = max(rates, key=rates.count)
        self._group = max(
            (index for index, group in enumerate(groups) if group["lr"] == common),
            key=lambda index: len(groups[index]["params"]),
        )

    @property
    def scheduler(self) -> Any:
        """The schedule."""
        return self._scheduler or self.trainer.scheduler

    def after_step(self) -> None:
        """Record the rate of this iteration, and set that of the next."""
        assert self._optimizer is not None
        rate = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule."""
        return self.scheduler.state_dict() if isinstance(self.scheduler, _WITH_STATE) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of the schedule."""
        self.scheduler.load_state_dict(state_dict)


_WITH_STATE = torch.optim.lr_scheduler.LRScheduler


class EvalHook(HookBase):
    """Evaluate at each ``eval_period`` iterations and after the last one, and record the numbers.

    Args:
        eval_period: iterations between two evaluations; 0: only after the training.
        eval_function: returns metrics, nested by name.
        eval_after_train: evaluate after the training, if it is complete.
    """

    def __init__(
        self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True
    ) -> None:
        self._period = eval_period
        self._func: Callable[[], Any] | None = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self) -> None:
        assert self._func is not None
        results = self._func()
        if results:
            values = flatten_results_dict(results)
            wrong = {name: value for name, value in values.items() if not isinstance(value, int | float)}
            if wrong:
                raise ValueError(f"the evaluation returned values that are no numbers: {wrong}")
            self.trainer.storage.put_scalars(**values, smoothing_hint=False)
        comm.synchronize()  # an evaluation may end at different times in the processes

    def after_step(self) -> None:
        """Evaluate at the end of a period, except the last."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        """Evaluate a complete training, and forget the function, which may refer to the trainer."""
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
        self._func = None


class PreciseBN(HookBase):
    """Replace the running statistics of batch normalizations by exact means over many batches.

    Args:
        period: iterations between two replacements; 0: only after the training.
        model: its normalizations in training mode are updated.
        data_loader: batches, at least ``num_iter``.
        num_iter: batches that the means are taken over.
    """

    def __init__(self, period: int, model: nn.Module, data_loader: Iterable[Any], num_iter: int) -> None:
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter

    def after_step(self) -> None:
        """Update the statistics at the end of a period and of the training."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.update_stats()

    @torch.no_grad()
    def update_stats(self) -> None:
        """Update the statistics now."""
        norms = [
            module
            for module in self._model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.training
            and module.track_running_stats
        ]
        if not norms:
            logger.info("PreciseBN finds no batch normalization in training mode")
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches since the reset
        for batch in itertools.islice(iter(self._data_loader), self._num_iter):
            self._model(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class TorchMemoryStats(HookBase):
    """Log the memory of the CUDA device.

    Args:
        period: iterations between two lines.
        max_runs: lines.
        logger: where they go; by default the logger of this module.
    """

    def __init__(self, period: int = 20, max_runs: int = 10, logger: Any = None) -> None:
        self._logger = logger or logging.getLogger(__name__)
        self._period = period
        self._left = max_runs

    def after_step(self) -> None:
        """Log at the end of a period and of the training."""
        done = self.trainer.iter + 1
        ends = done % self._period == 0 or done == self.trainer.max_iter
        if not ends or self._left <= 0 or not torch.cuda.is_available():
            return
        self._left -= 1
        megabytes = [
            measure() / 1024**2
            for measure in (
                torch.cuda.max_memory_reserved,
                torch.cuda.memory_reserved,
                torch.cuda.max_memory_allocated,
                torch.cuda.memory_allocated,
            )
        ]
        self._logger.info(
            "iter: %d  max_reserved_mem: %.0fMB  reserved_mem: %.0fMB  max_allocated_mem: %.0fMB  "
            "allocated_mem: %.0fMB",
            self.trainer.iter,
            *megabytes,
        )
        torch.cuda.reset_peak_memory_stats()


class TorchProfiler(HookBase):
    """Profile some iterations with ``torch.profiler``.

    Args:
        enable_predicate: called with the trainer, whether an iteration is profiled.
        output_dir: folder of the traces.
        activities: what is profiled; by default the CPU and, where there is one, the CUDA device.
        save_tensorboard: write the trace to ``<output_dir>/log`` for TensorBoard, too.
    """

    def __init__(
        self,
        enable_predicate: Callable[[Any], bool],
        output_dir: str,
        *,
        activities: Sequence[Any] | None = None,
        save_tensorboard: bool = True,
    ) -> None:
        self._enable_predicate = enable_predicate
        self._output_dir = output_dir
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler: Any = None

    def before_step(self) -> None:
        """Start the profiler if this iteration is to be profiled."""
        if not self._enable_predicate(self.trainer):
            return
        on_trace_ready = None
        if self._save_tensorboard:
            on_trace_ready = torch.profiler.tensorboard_trace_handler(
                os.path.join(self._output_dir, "log", f"profiler-tensorboard-iter{self.trainer.iter}")
            )
        self._profiler = self.start(on_trace_ready)
        self._profiler.__enter__()

    def start(self, on_trace_ready: Any) -> Any:
        """Return the profiler of one iteration."""
        return torch.profiler.profile(activities=self._activities, on_trace_ready=on_trace_ready)

    def after_step(self) -> None:
        """Stop the profiler, and write what it found as a Chrome trace."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        Path(self._output_dir).mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(
            os.path.join(self._output_dir, f"profiler-trace-iter{self.trainer.iter}.json")
        )


class AutogradProfiler(TorchProfiler):
    """Profile some iterations with ``torch.autograd.profiler``.

    Args:
        enable_predicate: see ``TorchProfiler``.
        output_dir: see ``TorchProfiler``.
        use_cuda: profile the CUDA device, too.
    """

    def __init__(
        self, enable_predicate: Callable[[Any], bool], output_dir: str, *, use_cuda: bool = True
    ) -> None:
        super().__init__(enable_predicate, output_dir, save_tensorboard=False)
        self._use_device = "cuda" if use_cuda and torch.cuda.is_available() else None

    def start(self, on_trace_ready: Any) -> Any:
        """Return the profiler of one iteration."""
        return torch.autograd.profiler.profile(use_device=self._use_device)
