"""The state of a training is whole, and of that training."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.precision import Precision
from torch import nn

from detexport.engine.training_state import BestWeights, TrainingState, _read_state
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


def load(into: TrainingState, path: Path, key: str = "k", rank: int = 0, processes: int = 1) -> bool:
    """Load as one of several processes, of which the first alone has the file."""
    sent: list[Any] = []

    def send(value: Any) -> Any:
        sent.append(value)
        return value

    if rank:
        state().load(path, key, rank=0, world_size=processes, broadcast=send)
        path = path.with_name("of another machine.pt")
    broadcast = (lambda _: sent[0]) if rank else send
    return into.load(path, key, rank=rank, world_size=processes, broadcast=broadcast)


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
    first.measured = [(2, {"loss": 0.5})]
    first.save(tmp_path / "a.pt", "k", gather=alone, writes=True)
    drawn = draws()
    other = state()
    assert load(other, tmp_path / "a.pt")
    assert draws() == drawn
    assert other.model.layer[0].normalizer == 7.5
    assert other.step == 3
    assert other.measured == [(2, {"loss": 0.5})]
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
    assert not load(state(), tmp_path / "a.pt")
    state().save(tmp_path / "a.pt", "k", gather=alone, writes=False)
    assert not (tmp_path / "a.pt").exists()
    state().save(tmp_path / "a.pt", "k", gather=alone, writes=True)
    other = state()
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    assert not load(other, tmp_path / "a.pt", "another")
    assert all(torch.equal(other.model.state_dict()[name], value) for name, value in before.items())


def test_each_process_has_its_generators(tmp_path: Path) -> None:
    torch.manual_seed(1)
    values: list[Any] = []
    state().save(tmp_path / "a.pt", "k", gather=lambda value: values.append(value) or [], writes=False)
    drawn = draws()
    torch.manual_seed(2)
    state().save(tmp_path / "a.pt", "k", gather=lambda value: [value, *values], writes=True)
    assert load(state(), tmp_path / "a.pt", rank=1, processes=2)
    assert draws() == drawn


@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes(tmp_path: Path, processes: int) -> None:
    state().save(tmp_path / "a.pt", "k", gather=lambda value: [value, value], writes=True)
    with pytest.raises(CheckpointError, match=f"got: {processes} processes; expected: 2 processes"):
        load(state(), tmp_path / "a.pt", processes=processes)


def test_processes_without_the_file_continue_as_the_first_one(tmp_path: Path) -> None:
    first = state()
    first.step = 3
    first.save(tmp_path / "a.pt", "k", gather=lambda value: [value, value], writes=True)
    other = state()
    assert load(other, tmp_path / "a.pt", rank=1, processes=2)
    assert other.step == 3
    assert torch.equal(other.model.layer[0].weight, first.model.layer[0].weight)


def test_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 broken")
    error = pickle.loads(pickle.dumps(_read_state(tmp_path / "a.pt")))  # as it reaches other processes
    for broadcast in (lambda value: value, lambda value: error):
        with pytest.raises(CheckpointError, match=r"cannot be read.*remove the file"):
            state().load(tmp_path / "a.pt", "k", rank=0, world_size=1, broadcast=broadcast)


def test_the_best_weights_are_a_copy() -> None:
    best, weights = BestWeights(), {"a": torch.ones(2)}
    best.update(0.0, weights)
    weights["a"].zero_()
    assert best.weights["a"].tolist() == [1.0, 1.0]
