"""Learning rates over the iterations of a run."""

import math

import pytest
import torch
from torch import nn

from detexport.errors import ConfigError
from detexport.solver import LRMultiplier, WarmupCosineLR, WarmupMultiStepLR, WarmupParamScheduler


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)


def rates(schedule: LRMultiplier, iterations: int) -> list[float]:
    found = []
    for _ in range(iterations):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_milestones_after_a_warm_up() -> None:
    schedule = WarmupMultiStepLR(optimizer(), [4, 6], gamma=0.5, warmup_factor=0.0, warmup_iters=2)
    assert rates(schedule, 8) == pytest.approx([0, 1, 2, 2, 1, 1, 0.5, 0.5])
    constant = WarmupMultiStepLR(optimizer(), [9], 0.1, 0.25, warmup_iters=2, warmup_method="constant")
    assert rates(constant, 3) == pytest.approx([0.5, 0.5, 2])


def test_a_cosine_after_a_warm_up() -> None:
    schedule = WarmupCosineLR(optimizer(), 8, warmup_factor=0.0, warmup_iters=2)
    start = 1 + math.cos(math.pi / 4)
    expected = [0, start / 2, *(1 + math.cos(math.pi * step / 8) for step in range(2, 8))]
    assert rates(schedule, 8) == pytest.approx(expected)


def test_a_schedule_may_start_after_the_warm_up() -> None:
    warmup = WarmupParamScheduler(lambda where: 1 - where, 0.5, 0.2, rescale_interval=True)
    assert [warmup(where) for where in (0.0, 0.1, 0.2, 0.6)] == pytest.approx([0.5, 0.75, 1, 0.5])
    with pytest.raises(ConfigError, match="unknown warm-up"):
        WarmupParamScheduler(lambda where: 1, 0.5, 0.2, "cosine")


def test_a_run_continues_where_it_stopped() -> None:
    def build() -> LRMultiplier:
        return LRMultiplier(optimizer(), lambda where: 1 - where, max_iter=10)

    whole = rates(build(), 6)
    first, second = build(), build()
    assert rates(first, 3) == pytest.approx(whole[:3])
    second.load_state_dict(first.state_dict())
    second.step()
    assert second.get_last_lr()[0] == pytest.approx(whole[4])
