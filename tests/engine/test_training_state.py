"""The state of a training is whole, and of that training."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.precision import Precision
from torch import nn

from detexport.engine.training_state import BestWeights, TrainingState
from detexport.errors import CheckpointError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 2))
        self.layer[0].normalizer = 100.0  # as RetinaNet keeps its


def state() -> TrainingState:
    model = Net()
    return TrainingState(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), None, Precision())


def alone(value: Any) -> list[Any]:
    return [value]


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_all_of_a_training_is_restored(tmp_path: Path) -> None:
    first = state()
    first.model.layer[0].normalizer = 7.5
    first.model.layer(torch.ones(2)).sum().backward()
    first.optimizer.step()
    first.step = 3
    first.best.update(0.5, first.model.state_dict())
    first.best.update(0.4, {})
    first.save(tmp_path / "a.pt", "k", gather=alone, writes=True)
    drawn = draws()
    other = state()
    assert other.load(tmp_path / "a.pt", "k", rank=0)
    assert draws() == drawn
    assert other.model.layer[0].normalizer == 7.5
    assert other.step == 3
    assert (other.best.value, other.best.evaluations) == (0.5, 1)
    for name, value in first.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)
        assert torch.equal(other.best.weights[name], value)
    momenta = [
        [values["momentum_buffer"] for values in one.optimizer.state_dict()["state"].values()]
        for one in (first, other)
    ]
    assert all(torch.equal(*pair) for pair in zip(*momenta, strict=True))


def test_another_training_starts_anew(tmp_path: Path) -> None:
    assert not state().load(tmp_path / "a.pt", "k", rank=0)
    state().save(tmp_path / "a.pt", "k", gather=alone, writes=False)
    assert not (tmp_path / "a.pt").exists()
    state().save(tmp_path / "a.pt", "k", gather=alone, writes=True)
    other = state()
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    assert not other.load(tmp_path / "a.pt", "another", rank=0)
    assert all(torch.equal(other.model.state_dict()[name], value) for name, value in before.items())


def test_each_process_has_its_generators(tmp_path: Path) -> None:
    torch.manual_seed(1)
    values: list[Any] = []
    state().save(tmp_path / "a.pt", "k", gather=lambda value: values.append(value) or [], writes=False)
    drawn = draws()
    torch.manual_seed(2)
    state().save(tmp_path / "a.pt", "k", gather=lambda value: [value, *values], writes=True)
    assert state().load(tmp_path / "a.pt", "k", rank=1)
    assert draws() == drawn
    with pytest.raises(CheckpointError, match="ran with fewer processes; got: at least 3 processes"):
        state().load(tmp_path / "a.pt", "k", rank=2)


def test_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(CheckpointError, match=r"cannot be read.*remove the file"):
        state().load(tmp_path / "a.pt", "k", rank=0)


def test_the_best_weights_are_a_copy() -> None:
    best, weights = BestWeights(), {"a": torch.ones(2)}
    best.update(0.0, weights)
    weights["a"].zero_()
    assert best.weights["a"].tolist() == [1.0, 1.0]
