"""Training of a model on a split of a data set, on Lightning's Fabric.

Fabric brings devices, processes and precision. The loop is written out here, since all of its state is part
of a checkpoint: a killed training continues with the same batches, losses and weights.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from detexport.engine.optimization import build_optimizer, clip_gradients, set_learning_rate
from detexport.engine.training_settings import TrainingSettings
from detexport.engine.training_state import TrainingState
from detexport.errors import ConfigError
from detexport.metrics.evaluate import HEADLINES
from detexport.system.extras import extra_imports

with extra_imports():
    from lightning.fabric import Fabric

Measured = tuple[int, dict[str, float]]
"""A number of steps, and the values that were measured after them."""


@dataclass(frozen=True)
class TrainingHooks:
    """What a training does besides training; all of it is optional.

    Args:
        evaluate: measures a model during the training: metrics by name, the same in all processes.
        log: called in the main process before each checkpoint and at the end, with the new losses, learning
            rates and metrics. After a kill, those since the last checkpoint are measured and logged again.
        state_file: the checkpoint; it is read if it is of the same training, and replaced periodically.
        key: digest of the model, its weights and the data: with the settings, what determines the training.
    """

    evaluate: Callable[[Any], Mapping[str, float]] | None = None
    log: Callable[[Sequence[Measured]], None] | None = None
    state_file: Path | None = None
    key: str = ""


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
) -> dict[str, Tensor]:
    """Train a model from its current weights.

    Args:
        model: built with the data set's number of classes; left in training mode, on the training's device.
        dataset: the training split.
        settings: parameters of the training.
        truth: kinds of annotations that the model is trained on.
        hooks: see ``TrainingHooks``.
        fabric: from ``launch``; by default this function launches.

    Returns:
        the averaged state dict, or that of the last step or of the best evaluation (see
        ``TrainingSettings``), on the CPU, without ``num_batches_tracked`` of batch normalization.

    Raises:
        ConfigError: see ``launch``.
        DataError: no image has usable annotations, or one lacks a kind of annotation in ``truth``.
        FloatingPointError: the loss is not finite.
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
    return {
        name: value.detach().cpu()
        for name, value in run.result().items()
        if not name.endswith(".num_batches_tracked")
    }


@dataclass
class _Run:
    """A training in one process."""

    model: Any
    settings: TrainingSettings
    hooks: TrainingHooks
    fabric: Fabric
    measured: list[Measured] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings, fabric = self.settings, self.fabric
        self.network, self.optimizer = fabric.setup(self.model, build_optimizer(self.model, settings))
        average = None
        if settings.average_decay is not None:
            average = AveragedModel(
                self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay), use_buffers=True
            )
        self.state = TrainingState(self.model, self.optimizer.optimizer, average, fabric.strategy.precision)
        if fabric.world_size > 1:  # each process samples its own boxes
            torch.manual_seed(settings.seed + fabric.global_rank)
        file = self.hooks.state_file
        if file and self.state.load(file, self.key, rank=fabric.global_rank):
            fabric.print(f"continue after step {self.state.step} of {settings.iterations}: {file}")

    @property
    def key(self) -> str:
        """What determines the training; its state in a file is of no use to another."""
        return f"{self.hooks.key} {self.settings.of_result()}"

    def fit(self, batches: Iterator[list[dict[str, Any]]]) -> None:
        """Train from the current step to the end."""
        settings, state = self.settings, self.state
        with self._progress() as progress:
            while state.step < settings.iterations and not state.finished:
                losses = self._step(next(batches))
                state.step += 1
                if state.step % settings.log_period == 0:
                    self._measure_losses(losses)
                period = settings.evaluation_period
                if period and state.step % period == 0 and self.hooks.evaluate:
                    self._evaluate(self.hooks.evaluate)
                last = state.finished or state.step == settings.iterations
                if last or state.step % settings.checkpoint_period == 0:
                    self._checkpoint()
                if self.fabric.is_global_zero:
                    progress.set_postfix(
                        {name.removeprefix("loss_"): f"{value:.2f}" for name, value in losses.items()}
                    )
                    progress.update()

    def _step(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        step, optimizer = self.state.step, self.optimizer
        set_learning_rate(optimizer, step, self.settings)
        losses: dict[str, Tensor] = self.network(batch)
        loss: Any = sum(losses.values())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}: {losses}")
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        clip_gradients(self.fabric, optimizer, self.settings)
        optimizer.step()
        if self.state.average is not None:
            self.state.average.update_parameters(self.model)
        return losses

    def _measure_losses(self, losses: dict[str, Tensor]) -> None:
        """Keep the losses of a step, the means over all processes."""
        values = {
            name: float(cast(Tensor, self.fabric.all_reduce(value.detach())))
            for name, value in losses.items()
        }
        rate = self.optimizer.param_groups[0]["lr"]
        self.measured.append(
            (self.state.step, {**values, "learning_rate": rate, "loss": sum(values.values())})
        )

    def _evaluate(self, evaluate: Callable[[Any], Mapping[str, float]]) -> None:
        """Measure the current result; end the training after evaluations without a new best one."""
        with _evaluation_mode(self._current()) as model:
            metrics = evaluate(model)
        self.measured.append((self.state.step, dict(metrics)))
        best, patience = self.state.best, self.settings.patience
        if patience is not None:
            best.update(headline(metrics), self._current().state_dict())
            self.state.finished = best.evaluations >= patience

    def _checkpoint(self) -> None:
        fabric, hooks = self.fabric, self.hooks
        # First the log: what is logged twice after a kill has the same steps and values.
        if hooks.log and fabric.is_global_zero:
            hooks.log(self.measured)
        self.measured = []
        if hooks.state_file:
            writes = fabric.is_global_zero
            self.state.save(hooks.state_file, self.key, gather=gather_objects, writes=writes)

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
