"""Learning rates, weight decay and limits of the gradient."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from detexport.config import get_cfg
from detexport.engine.optimization import (
    build_schedule,
    build_training_optimizer,
    limit_gradients,
    set_learning_rate,
)
from detexport.engine.solver import Solver
from detexport.engine.training_settings import TrainingSettings
from detexport.solver import build_lr_scheduler, build_optimizer
from trainings import TINY


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**{**TINY, **changes})


def test_learning_rate_rises_then_falls_to_zero() -> None:
    cosine = build_schedule(settings(iterations=110, warmup_iterations=10))
    factors = [cosine(step) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0.0)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert build_schedule(settings(warmup_iterations=0))(0) == 1.0


def test_detectron2s_steps() -> None:
    stepped = settings(
        schedule="WarmupMultiStepLR",
        iterations=100,
        warmup_iterations=4,
        warmup_factor=0.2,
        steps=(50, 80),
        gamma=0.1,
    )
    factors = [build_schedule(stepped)(step) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[49:51] == pytest.approx([1.0, 0.1])
    assert factors[79:81] == pytest.approx([0.1, 0.01])
    constant = settings(schedule="WarmupMultiStepLR", warmup_factor=0.2, warmup_method="constant")
    assert [build_schedule(constant)(step) for step in range(3)] == [0.2, 0.2, 1.0]


def test_detectron2s_cosine_is_over_all_iterations() -> None:
    options = settings(
        schedule="WarmupCosineLR", iterations=100, warmup_iterations=10, warmup_factor=0.0, final_factor=0.1
    )
    cosine = build_schedule(options)
    assert cosine(0) == 0.0
    assert cosine(50) == pytest.approx(0.55)
    assert cosine(100) == pytest.approx(0.1)
    # The warm-up leads to the cosine's value.
    steps = [cosine(step) for step in (9, 10, 11)]
    assert steps[0] < steps[1]
    assert steps[1] > steps[2]
    assert steps[0] == pytest.approx(0.9 * steps[1])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 1)
        self.norm = nn.GroupNorm(32, 32)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(4))
        self.tied = self.conv


def test_groups_by_learning_rate_and_weight_decay() -> None:
    net = Net()
    options = settings(
        optimizer="sgd", learning_rate=0.1, weight_decay=0.3, weight_decay_norm=0.2, weight_decay_bias=0.4
    )
    optimizer = build_training_optimizer(net, TrainingSettings(**{**vars(options), "bias_factor": 2.0}))
    found = {
        next(name for name, one in net.named_parameters() if one is parameter): (
            group["lr"],
            group["weight_decay"],
        )
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "conv.weight": (0.1, 0.3),
        "conv.bias": (0.2, 0.4),
        "norm.weight": (0.1, 0.2),
        "norm.bias": (0.2, 0.4),  # a bias, as in detectron2
        "scale": (0.1, 0.0),
    }
    assert isinstance(optimizer, torch.optim.SGD)
    set_learning_rate(optimizer, 0.1)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.01, 0.02])


def configurations() -> list[Any]:
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 20, (12, 17, 30)
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR = 30, 0.1
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.3, 0.2
    other = cfg.clone()
    other.SOLVER.LR_SCHEDULER_NAME, other.SOLVER.BASE_LR_END, other.SOLVER.WARMUP_ITERS = (
        *("WarmupCosineLR", 0.01),
        5,
    )
    other.SOLVER.BIAS_LR_FACTOR, other.SOLVER.WEIGHT_DECAY_BIAS = 2.0, 0.05
    return [cfg, other]


@pytest.mark.parametrize("cfg", configurations(), ids=["multi step", "cosine"])
@pytest.mark.parametrize("clip_type", ["value", "norm", "full_model"])
def test_a_training_and_the_solver_of_a_configuration_are_equal(cfg: Any, clip_type: str) -> None:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, clip_type, 0.01
    options = Solver().settings(cfg)
    nets = [seeded_net() for _ in range(2)]
    fabric = Fabric(accelerator="cpu", devices=1)
    ours, theirs = build_training_optimizer(nets[0], options), build_optimizer(cfg, nets[1])
    schedule, their_schedule = build_schedule(options), build_lr_scheduler(cfg, theirs)
    for step in range(cfg.SOLVER.MAX_ITER):
        set_learning_rate(ours, schedule(step))
        for net in nets:
            net.zero_grad()
            (net.norm(net.conv(torch.ones(2, 3, 4, 4))) * net.scale.sum()).pow(2).sum().backward()
        limit_gradients(fabric, ours, options)
        ours.step()
        theirs.step()
        their_schedule.step()
        for one, other in zip(*(net.parameters() for net in nets), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7), step


def seeded_net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"gradient_norm": 1.0}, [[0.0, 3 / 13], [4 / 13, 12 / 13]]),
        ({"gradient_norm": None, "gradient_value": 3.5}, [[0.0, 3.0], [3.5, 3.5]]),
        ({"gradient_norm": None, "parameter_norm": 3.0}, [[0.0, 3.0], [4 * 3 / 160**0.5, 12 * 3 / 160**0.5]]),
        ({"gradient_norm": None, "parameter_norm": 6.0, "norm_type": float("inf")}, [[0.0, 3.0], [2.0, 6.0]]),
        ({"gradient_norm": None}, [[0.0, 3.0], [4.0, 12.0]]),
    ],
)
def test_limits_of_the_gradient(limit: dict[str, Any], expected: list[list[float]]) -> None:
    net = nn.ParameterList([torch.zeros(2), torch.zeros(2)])
    fabric = Fabric(accelerator="cpu", devices=1)
    options = settings(**limit)
    module = SimpleNamespace(parameters=net.parameters)
    _, optimizer = fabric.setup(net, build_training_optimizer(net, options))
    for parameter, gradient in zip(module.parameters(), ([0.0, 3.0], [4.0, 12.0]), strict=True):
        parameter.grad = torch.tensor(gradient)
    limit_gradients(fabric, optimizer, options)
    found = [parameter.grad for parameter in net.parameters()]
    for gradient, values in zip(found, expected, strict=True):
        assert gradient.tolist() == pytest.approx(values, rel=1e-4)
