"""Training of a model on a split of a data set, on Lightning's Fabric.

Fabric brings devices, processes and precision. The loop is written out here, since all of its state is part
of a checkpoint: a killed training continues with the same batches, losses and weights.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from detexport.data.coco import CocoDataset
from detexport.data.mapping import GroundTruth
from detexport.data.training_batches import (
    Order,
    TrainingBatches,
    TrainingExamples,
    build_training_loader,
    learnable_records,
)
from detexport.engine.optimization import (
    build_schedule,
    build_training_optimizer,
    limit_gradients,
    set_learning_rate,
)
from detexport.engine.training_settings import TrainingSettings
from detexport.engine.training_state import Measured, TrainingState
from detexport.errors import ConfigError, DivergedError
from detexport.metrics.evaluate import HEADLINES
from detexport.system.extras import extra_imports

with extra_imports():
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Args:
        weights: the averaged state dict, or that of the last step or of the best evaluation (see
            ``TrainingSettings``), on the CPU, without ``num_batches_tracked`` of batch normalization.
        steps: number of steps, which early stopping makes fewer than ``TrainingSettings.iterations``.
    """

    weights: dict[str, Tensor]
    steps: int


@dataclass(frozen=True)
class TrainingHooks:
    """What a training does besides training; all of it is optional.

    Args:
        evaluate: measures a model during the training: metrics by name, the same in all processes.
        log: called in the main process after each checkpoint and at the end, with the losses, learning rates
            and metrics that it did not take yet. After a kill or an error of its own, it may be called with
            some of them again, with the same steps and values.
        state_file: the checkpoint; it is read if it is of the same training, and replaced periodically.
        key: digest of the model, its weights and the data: with the settings, what determines the training.
        start: called in the main process before the first step, also of a training that continues.
    """

    evaluate: Callable[[Any], Mapping[str, float]] | None = None
    log: Callable[[Sequence[Measured]], None] | None = None
    state_file: Path | None = None
    key: str = ""
    start: Callable[[], None] | None = None


def seed_everything(seed: int) -> None:
    """Seed the random number generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def launch(settings: TrainingSettings) -> Fabric:
    """Start the processes of a training, which all run the same command, and return Lightning's Fabric.

    Raises:
        ConfigError: the devices are not available, or the batch size is not a multiple of their number.
    """
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=settings.precision,
        )
    # Lightning has no errors of its own for options; ImportError: the package of an accelerator.
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            "the devices of the training are not available",
            got=f"accelerator {settings.accelerator}, devices {settings.devices}, strategy "
            f"{settings.strategy}: {error}",
            expected="devices of this machine, and a strategy of Lightning that they support",
            remedy="correct accelerator, devices and strategy of the training",
        ) from error
    fabric.launch()
    if settings.batch_size % fabric.world_size:
        raise ConfigError(
            "the images of a batch cannot be shared equally",
            got=f"batch_size {settings.batch_size} for {fabric.world_size} devices",
            expected=f"a multiple of {fabric.world_size}",
            remedy="change batch_size, the number of images of all devices together",
        )
    return fabric


def train(
    model: Any,
    dataset: CocoDataset,
    settings: TrainingSettings,
    truth: GroundTruth,
    hooks: TrainingHooks | None = None,
    fabric: Fabric | None = None,
) -> Trained:
    """Train a model from its current weights.

    Args:
        model: built with the data set's number of classes; left in training mode, on the training's device.
        dataset: the training split.
        settings: parameters of the training.
        truth: kinds of annotations that the model is trained on.
        hooks: see ``TrainingHooks``.
        fabric: from ``launch``; by default this function launches.

    Raises:
        ConfigError: see ``launch``.
        DataError: no image has usable annotations, or one lacks a kind of annotation in ``truth``.
        DivergedError: the loss is not finite.
    """
    records = learnable_records(dataset, truth)
    run = _Run(model.train(), settings, hooks or TrainingHooks(), fabric or launch(settings))
    examples = TrainingExamples(
        records,
        model.input_format,
        truth,
        keypoint_flip=dataset.keypoint_flip,
        augmentations=settings.augmentations,
    )
    batches = TrainingBatches(
        records,
        Order(settings.batch_size, settings.seed, settings.flip, settings.by_orientation),
        start=run.state.step,
        rank=run.fabric.global_rank,
        world_size=run.fabric.world_size,
    )
    run.fit(iter(build_training_loader(batches, examples, settings.workers)))
    weights = {
        name: value.detach().cpu()
        for name, value in run.result().items()
        if not name.endswith(".num_batches_tracked")
    }
    return Trained(weights, run.state.step)


@dataclass
class _Run:
    """A training in one process."""

    model: Any
    settings: TrainingSettings
    hooks: TrainingHooks
    fabric: Fabric

    def __post_init__(self) -> None:
        settings, fabric = self.settings, self.fabric
        self.network, self.optimizer = fabric.setup(
            self.model, build_training_optimizer(self.model, settings)
        )
        self.schedule = build_schedule(settings)
        average = None
        if settings.average_decay is not None:
            average = AveragedModel(
                self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay), use_buffers=True
            )
        self.state = TrainingState(self.model, self.optimizer.optimizer, average, fabric.strategy.precision)
        if fabric.world_size > 1:  # each process samples its own boxes
            torch.manual_seed(settings.seed + fabric.global_rank)
        self._continue()

    def _continue(self) -> None:
        """Load the state of the same training, if there is one."""
        fabric, file = self.fabric, self.hooks.state_file
        if file and self.state.load(
            file,
            self.key,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            broadcast=fabric.broadcast,
        ):
            fabric.print(f"continue after step {self.state.step} of {self.settings.iterations}: {file}")

    @property
    def key(self) -> str:
        """What determines the training; its state in a file is of no use to another."""
        return f"{self.hooks.key} {self.settings.of_result()}"

    @property
    def ended(self) -> bool:
        return self.state.finished or self.state.step >= self.settings.iterations

    def fit(self, batches: Iterator[list[dict[str, Any]]]) -> None:
        """Train from the current step to the end."""
        settings, state = self.settings, self.state
        self._start()
        with self._progress() as progress:
            while not self.ended:
                losses = self._step(next(batches))
                state.step += 1
                if state.step % settings.log_period == 0:
                    self._measure_losses(losses)
                period = settings.evaluation_period
                if period and state.step % period == 0 and self.hooks.evaluate:
                    self._evaluate(self.hooks.evaluate)
                if self.ended or state.step % settings.checkpoint_period == 0:
                    self._checkpoint()
                if self.fabric.is_global_zero:
                    progress.set_postfix(
                        {name.removeprefix("loss_"): f"{value:.2f}" for name, value in losses.items()}
                    )
                    progress.update()

    def _start(self) -> None:
        """Start the log before the first step, so that one that cannot be written costs no work."""
        if self.hooks.start and self.fabric.is_global_zero and not self.ended:
            self.hooks.start()
        self._log()

    def _step(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        optimizer = self.optimizer
        set_learning_rate(optimizer, self.schedule(self.state.step))
        losses = self._losses(batch)
        optimizer.zero_grad(set_to_none=True)
        loss: Any = sum(losses.values())
        self.fabric.backward(loss)
        limit_gradients(self.fabric, optimizer, self.settings)
        optimizer.step()
        if self.state.average is not None:
            self.state.average.update_parameters(self.model)
        return losses

    def _losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the losses of a batch, which are finite."""
        try:
            losses: dict[str, Tensor] = self.network(batch)
        except FloatingPointError as error:  # find_top_rpn_proposals checks them
            raise self._diverged(str(error)) from error
        loss: Any = sum(losses.values())
        if not torch.isfinite(loss):
            values = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
            raise self._diverged(f"loss {loss.item()} ({values})")
        return losses

    def _diverged(self, got: str) -> DivergedError:
        return DivergedError(
            "the training diverged",
            got=f"{got} at step {self.state.step}",
            expected="a finite loss",
            remedy="lower learning_rate, or set gradient_norm",
        )

    def _measure_losses(self, losses: dict[str, Tensor]) -> None:
        """Keep the losses of a step, the means over all processes."""
        values = {
            name: float(cast(Tensor, self.fabric.all_reduce(value.detach())))
            for name, value in losses.items()
        }
        rate = self.optimizer.param_groups[0]["lr"]
        self.state.measured.append(
            (self.state.step, {**values, "learning_rate": rate, "loss": sum(values.values())})
        )

    def _evaluate(self, evaluate: Callable[[Any], Mapping[str, float]]) -> None:
        """Measure the current result; end the training after evaluations without a new best one."""
        with _evaluation_mode(self._current()) as model:
            metrics = evaluate(model)
        self.state.measured.append((self.state.step, dict(metrics)))
        best, patience = self.state.best, self.settings.patience
        if patience is not None:
            best.update(headline(metrics), self._current().state_dict())
            self.state.finished = best.evaluations >= patience

    def _checkpoint(self) -> None:
        """Write the state with what is not logged yet, and log it: a failing log costs no work."""
        file = self.hooks.state_file
        if file:
            self.state.save(file, self.key, gather=gather_objects, writes=self.fabric.is_global_zero)
        self._log()

    def _log(self) -> None:
        if self.hooks.log and self.state.measured and self.fabric.is_global_zero:
            self.hooks.log(self.state.measured)
        self.state.measured = []

    def _current(self) -> Any:
        return self.model if self.state.average is None else self.state.average.module

    def _progress(self) -> Any:
        return tqdm(
            total=self.settings.iterations,
            initial=self.state.step,
            desc="train",
            unit="step",
            smoothing=0.05,
            disable=not self.fabric.is_global_zero,
        )

    def result(self) -> dict[str, Tensor]:
        """Return the weights of the best evaluation, or the current ones."""
        return self.state.best.weights or self._current().state_dict()


def headline(metrics: Mapping[str, float]) -> float:
    """Return the metric that early stopping follows: the first of ``HEADLINES``."""
    return next(metrics[name] for name in HEADLINES if name in metrics)


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all processes of a training, by rank."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed:
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[Any]:
    """Set a model to evaluation mode for the block, and all its modules back to their modes after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
