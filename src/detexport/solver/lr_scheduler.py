"""Learning rates over the iterations of a run.

A multiplier is a function of the fraction of the run that is done, 0 to 1, less than 1 at the last iteration.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detexport.errors import ConfigError

Multiplier = Callable[[float], float]


def multi_step(milestones: Sequence[float], gamma: float) -> Multiplier:
    """Return a multiplier that is multiplied by ``gamma`` at each of the fractions ``milestones``."""
    ascending = sorted(milestones)
    return lambda where: gamma ** bisect_right(ascending, where)


def cosine(end: float) -> Multiplier:
    """Return a multiplier that falls from 1 to ``end`` along half a cosine."""
    return lambda where: end + (1 - end) * 0.5 * (1 + math.cos(math.pi * where))


class WarmupParamScheduler:
    """A multiplier with a warm-up before it.

    Args:
        scheduler: the multiplier.
        warmup_factor: multiplier at the start, relative to the first after the warm-up.
        warmup_length: fraction of the run.
        warmup_method: ``"linear"`` increase, or ``"constant"``.
        rescale_interval: start ``scheduler`` at 0 after the warm-up, instead of where it is then.

    Raises:
        ConfigError: the method is unknown.
    """

    def __init__(
        self,
        scheduler: Multiplier,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        if warmup_method not in ("linear", "constant"):
            raise ConfigError(
                "unknown warm-up",
                got=f"SOLVER.WARMUP_METHOD: {warmup_method}",
                expected="linear or constant",
                remedy="correct SOLVER.WARMUP_METHOD",
            )
        self.scheduler = scheduler
        self.warmup_length = warmup_length
        self.warmup_method = warmup_method
        self.rescale_interval = rescale_interval
        self._end = scheduler(0.0 if rescale_interval else warmup_length)
        self._start = warmup_factor * scheduler(0.0)

    def __call__(self, where: float) -> float:
        """Return the multiplier at a fraction of the run."""
        if where < self.warmup_length:
            if self.warmup_method == "constant":
                return self._start
            return self._start + (self._end - self._start) * where / self.warmup_length
        if self.rescale_interval:
            where = (where - self.warmup_length) / (1 - self.warmup_length)
        return self.scheduler(where)


def warmup_schedule(
    name: str,
    iterations: int,
    *,
    steps: Sequence[int],
    gamma: float,
    final_factor: float,
    warmup_iterations: int,
    warmup_factor: float,
    warmup_method: str,
    rescale_interval: bool = False,
) -> WarmupParamScheduler:
    """Return the multiplier of a detectron2 schedule, of the fraction of the run that is done.

    Args:
        name: ``"WarmupMultiStepLR"`` or ``"WarmupCosineLR"``.
        iterations: of the run.
        steps: iterations at which ``WarmupMultiStepLR`` multiplies by ``gamma``.
        gamma: see ``steps``.
        final_factor: last multiplier of ``WarmupCosineLR``.
        warmup_iterations: of the warm-up, which ends with the run if it is longer.
        warmup_factor: see ``WarmupParamScheduler``.
        warmup_method: see ``WarmupParamScheduler``.
        rescale_interval: see ``WarmupParamScheduler``.

    Raises:
        ConfigError: the name or the warm-up is unknown.
    """
    if name == "WarmupMultiStepLR":
        schedule = multi_step([step / iterations for step in steps if step <= iterations], gamma)
    elif name == "WarmupCosineLR":
        schedule = cosine(final_factor)
    else:
        raise ConfigError(
            "unknown schedule",
            got=f"SOLVER.LR_SCHEDULER_NAME: {name}",
            expected="WarmupMultiStepLR or WarmupCosineLR",
            remedy="correct SOLVER.LR_SCHEDULER_NAME",
        )
    length = min(warmup_iterations / iterations, 1.0)
    return WarmupParamScheduler(schedule, warmup_factor, length, warmup_method, rescale_interval)


class LRMultiplier(LRScheduler):
    """Learning rates that are the initial ones times a multiplier.

    Args:
        optimizer: its learning rates are those at multiplier 1.
        multiplier: of the fraction of the run.
        max_iter: iterations of the run.
        last_iter: the iteration to continue from; -1 starts.
    """

    def __init__(
        self, optimizer: Optimizer, multiplier: Multiplier, max_iter: int, last_iter: int = -1
    ) -> None:
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, object]:
        """Return the state without the multiplier, which the configuration builds."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates at the current iteration."""
        multiplier = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * multiplier for base_lr in self.base_lrs]


class WarmupMultiStepLR(LRMultiplier):
    """Learning rates that fall at milestones, after a warm-up.

    Args:
        optimizer: see ``LRMultiplier``.
        milestones: iterations.
        gamma: factor at each milestone.
        warmup_factor: factor at the start.
        warmup_iters: iterations of the warm-up.
        warmup_method: ``"linear"`` or ``"constant"``.
        last_epoch: the iteration to continue from; -1 starts.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        # The multipliers are functions of iterations here: a run of length 1.
        steps = WarmupParamScheduler(
            multi_step(milestones, gamma), warmup_factor, warmup_iters, warmup_method
        )
        super().__init__(optimizer, steps, 1, last_epoch)


class WarmupCosineLR(LRMultiplier):
    """Learning rates that fall along half a cosine, after a warm-up.

    Args:
        optimizer: see ``LRMultiplier``.
        max_iters: iterations of the run.
        warmup_factor: factor at the start.
        warmup_iters: iterations of the warm-up.
        warmup_method: ``"linear"`` or ``"constant"``.
        last_epoch: the iteration to continue from; -1 starts.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        warmup = WarmupParamScheduler(cosine(0.0), warmup_factor, warmup_iters / max_iters, warmup_method)
        super().__init__(optimizer, warmup, max_iters, last_epoch)
