"""Training loops with hooks, under the names and arguments of detectron2."""

import logging
import math
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from detexport.utils import comm
from detexport.utils.events import EventStorage, get_event_storage

logger = logging.getLogger(__name__)


class HookBase:
    """Base class of hooks; a trainer calls the methods in the order in which its hooks were registered.

    ``trainer`` is a weak reference to the trainer.
    """

    trainer: Any = None

    def before_train(self) -> None:
        """Run before the first iteration."""

    def after_train(self) -> None:
        """Run after the last iteration, also if the training fails."""

    def before_step(self) -> None:
        """Run before each iteration."""

    def after_backward(self) -> None:
        """Run after the backward pass of each iteration, before the optimizer's step."""

    def after_step(self) -> None:
        """Run after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save; one without ``load_state_dict`` is not saved."""
        return {}


class TrainerBase:
    """Base class of trainers: the loop over iterations and the hooks. A subclass defines ``run_step``.

    Attributes:
        iter: the current iteration.
        start_iter: the first iteration.
        max_iter: the iteration after the last one.
        storage: the ``EventStorage`` of the training.
    """

    iter: int
    start_iter: int
    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = self.max_iter = 0

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks, which run in this order; None is left out."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> Any:
        """Run the iterations from ``start_iter`` to ``max_iter``, without the latter."""
        logger.info("training from iteration %d to %d", start_iter, max_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            finally:  # a complete training has iter == max_iter
                self.after_train()

    def before_train(self) -> None:
        """Call the hooks' ``before_train``."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Call the hooks' ``after_train``."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Call the hooks' ``before_step``."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Call the hooks' ``after_backward``."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Call the hooks' ``after_step``."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """Run one iteration."""
        raise NotImplementedError(f"{type(self).__name__} defines no run_step")

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and the states of the hooks that can be loaded, by the names of classes."""
        states = {
            type(hook).__qualname__: hook.state_dict()
            for hook in self._hooks
            if hasattr(hook, "load_state_dict") and hook.state_dict()
        }
        return {"iteration": self.iter, "hooks": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of ``state_dict``; a hook that no longer exists is logged."""
        self.iter = state_dict["iteration"]
        hooks: dict[str, Any] = {type(hook).__qualname__: hook for hook in self._hooks}
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logger.warning("the checkpoint has the state of the hook %s, which is not registered", name)


class SimpleTrainer(TrainerBase):
    """A trainer of one model, one loader and one optimizer: forward, backward, step.

    Args:
        model: maps a batch to a loss or to losses by name.
        data_loader: batches; it starts again at its end.
        optimizer: of the model's parameters.
        gather_metric_period: iterations between two records of the losses.
        zero_grad_before_forward: reset the gradients before the forward pass instead of after it.
        async_write_metrics: accepted; losses are recorded at once.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._batches: Iterator[Any] | None = None

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            FloatingPointError: a loss is infinite or NaN.
        """
        data, data_s = self.next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self.losses_of(data)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.backward(torch.stack([*losses.values()]).sum())
        self.after_backward()
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_metrics(losses, data_s)
        self.step()

    def next_batch(self) -> tuple[Any, float]:
        """Return a batch and the seconds that it took.

        Raises:
            RuntimeError: the model is in evaluation mode.
        """
        if not self.model.training:
            raise RuntimeError("the model is in evaluation mode; call model.train() before the training")
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        try:
            data = next(self._batches)
        except StopIteration:
            self._batches = iter(self.data_loader)
            data = next(self._batches)
        return data, time.perf_counter() - start

    def losses_of(self, data: Any) -> dict[str, Tensor]:
        """Return the model's losses by name; a single one is ``total_loss``."""
        losses: Any = self.model(data)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        loss.backward()

    def step(self) -> None:
        """Update the parameters."""
        self.optimizer.step()

    def write_metrics(self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "") -> None:
        """Record the losses, averaged over the processes, their sum, and the longest time for data.

        Raises:
            FloatingPointError: the sum is infinite or NaN.
        """
        values = {name: loss.detach().float().item() for name, loss in loss_dict.items()}
        gathered = comm.gather({**values, "data_time": data_time})
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", max(one.pop("data_time") for one in gathered), cur_iter=self.iter)
        means = {name: sum(one[name] for one in gathered) / len(gathered) for name in gathered[0]}
        total = sum(means.values())
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is not finite at iteration {self.iter}: {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=self.iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=self.iter, **means)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loop and of the optimizer."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of ``state_dict``."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """A ``SimpleTrainer`` with automatic mixed precision.

    Args:
        model: see ``SimpleTrainer``; on one device of a process.
        data_loader: see ``SimpleTrainer``.
        optimizer: see ``SimpleTrainer``.
        gather_metric_period: see ``SimpleTrainer``.
        zero_grad_before_forward: see ``SimpleTrainer``.
        grad_scaler: scales the losses; by default a new one, which does nothing without CUDA.
        precision: of the forward pass.
        log_grad_scaler: record the scale.
        async_write_metrics: see ``SimpleTrainer``.

    Raises:
        ValueError: the model is wrapped for several devices of one process.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        if isinstance(model, DataParallel) or (
            isinstance(model, DistributedDataParallel) and len(model.device_ids or ()) > 1
        ):
            raise ValueError("AMPTrainer needs a model on one device; start one process per device")
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = grad_scaler or torch.amp.GradScaler(
            self.device_type, enabled=self.device_type != "cpu"
        )
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def losses_of(self, data: Any) -> dict[str, Tensor]:
        """Return the model's losses by name, computed in ``precision``."""
        with torch.autocast(self.device_type, dtype=self.precision):
            return super().losses_of(data)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the scaled loss."""
        self.grad_scaler.scale(loss).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def step(self) -> None:
        """Update the parameters, unless a scaled gradient is not finite."""
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the trainer and of its scaler."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of ``state_dict``."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Return the model for training in all processes: as it is in one, else in ``DistributedDataParallel``.

    Args:
        model: on the device of this process.
        fp16_compression: exchange gradients as float16.
        **kwargs: of ``DistributedDataParallel``.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs and next(model.parameters()).device.type == "cuda":
        kwargs["device_ids"] = [comm.get_local_rank()]
    wrapped = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        wrapped.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return wrapped
