"""The optimizer of a configuration."""

import pytest
import torch
from torch import nn

from detexport.config import get_cfg
from detexport.errors import ConfigError
from detexport.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    net[2].weight.requires_grad = False
    return net


def test_groups_have_their_own_options() -> None:
    net = model()
    groups = get_default_optimizer_params(
        net, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0, bias_lr_factor=2.0, weight_decay_bias=0.05
    )
    options = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert options == {
        id(net[0].weight): (1.0, 0.1),
        id(net[0].bias): (2.0, 0.05),
        id(net[1].weight): (1.0, 0.0),
        id(net[1].bias): (2.0, 0.05),
        id(net[2].bias): (2.0, 0.05),
    }


def test_learning_rates_by_name_and_overrides() -> None:
    net = model()
    groups = get_default_optimizer_params(
        net,
        base_lr=1.0,
        lr_factor_func=lambda name: 0.1 if name.startswith("0.") else 1.0,
        overrides={"bias": {"weight_decay": 9.0}},
    )
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    assert found[id(net[0].weight)]["lr"] == 0.1
    assert found[id(net[2].bias)] == {**found[id(net[2].bias)], "lr": 1.0, "weight_decay": 9.0}
    with pytest.raises(ConfigError, match="needs base_lr"):
        get_default_optimizer_params(net, bias_lr_factor=2.0)


@pytest.mark.parametrize(("kind", "expected"), [("value", 0.5), ("norm", 0.5), ("full_model", 0.5)])
def test_gradients_are_clipped_before_a_step(kind: str, expected: float) -> None:
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = 1.0, 0.0, 0.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = kind, expected
    net = nn.Linear(1, 1, bias=False)
    before = net.weight.item()
    optimizer = build_optimizer(cfg, net)
    net.weight.grad = torch.tensor([[7.0]])
    optimizer.step()
    assert net.weight.item() == pytest.approx(before - expected, abs=1e-4)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full"
    with pytest.raises(ConfigError, match="unknown clipping"):
        build_optimizer(cfg, net)


def rates(name: str, **options: object) -> list[float]:
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = name, 1.0, 10
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 2, 0.5
    for key, value in options.items():
        cfg.SOLVER[key] = value
    optimizer = build_optimizer(cfg, nn.Linear(1, 1, bias=False))
    schedule = build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules_of_a_configuration() -> None:
    assert rates("WarmupMultiStepLR", STEPS=[4, 8]) == pytest.approx(
        [0.5, 0.75, 1, 1, *[0.1] * 4, 0.01, 0.01]
    )
    falling = rates("WarmupCosineLR")
    assert falling[0] == 0.5
    assert falling[5] == pytest.approx(0.5)
    assert falling[2:] == sorted(falling[2:], reverse=True)
    with pytest.raises(ConfigError, match="unknown schedule"):
        rates("WarmupLinear")
