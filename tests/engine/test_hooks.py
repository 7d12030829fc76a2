"""Hooks of a training."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detexport.checkpoint import DetectionCheckpointer
from detexport.engine import SimpleTrainer, hooks
from detexport.engine.hooks import BestCheckpointer, EvalHook, LRScheduler, PeriodicWriter
from detexport.errors import ConfigError
from detexport.solver import LRMultiplier
from detexport.utils.events import JSONWriter


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, batch: Any) -> Any:
        return self.norm(batch).sum()


BATCHES = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [10.0]])]


def trained(*registered: Any, iterations: int = 4) -> SimpleTrainer:
    model = Model()
    groups = [{"params": [model.norm.weight], "lr": 0.5}, {"params": [model.norm.bias], "lr": 0.25}]
    trainer = SimpleTrainer(model, BATCHES, torch.optim.SGD(groups))
    trainer.register_hooks(registered)
    trainer.train(0, iterations)
    return trainer


def test_functions_are_called_with_the_trainer() -> None:
    notes: list[Any] = []
    trained(
        hooks.CallbackHook(
            before_train=lambda trainer: notes.append("start"),
            after_step=lambda trainer: notes.append(trainer.iter),
            after_train=lambda trainer: notes.append("end"),
        ),
        iterations=2,
    )
    assert notes == ["start", 0, 1, "end"]


def test_times_are_recorded_after_the_first_iterations(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "detexport.engine.hooks"):
        trainer = trained(hooks.IterationTimer(warmup_iter=1))
    assert [number for _, number in trainer.storage.history("time").values()] == [1, 2, 3]
    assert "3 iterations in" in caplog.text


def test_writers_run_each_period_and_are_closed(tmp_path: Path) -> None:
    trained(PeriodicWriter([JSONWriter(tmp_path / "metrics.json")], period=3))
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [2, 3]


def test_checkpoints_are_saved_each_period_and_at_the_end(tmp_path: Path) -> None:
    checkpointer = DetectionCheckpointer(Model(), tmp_path)
    trained(hooks.PeriodicCheckpointer(checkpointer, period=3))
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000002.pth", "model_final.pth"]


@pytest.mark.parametrize(("mode", "kept"), [("max", 0.9), ("min", 0.1)])
def test_the_best_checkpoint_is_kept(mode: Any, kept: float, tmp_path: Path) -> None:
    values = iter([0.5, 0.9, float("nan"), 0.1])
    checkpointer = DetectionCheckpointer(Model(), tmp_path)
    best = BestCheckpointer(1, checkpointer, "box/AP", mode)
    trained(EvalHook(1, lambda: {"box": {"AP": next(values)}}), best)
    assert best.best_metric == kept
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_best.pth"]


def test_a_best_checkpoint_needs_a_metric_and_a_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="detexport"):
        trained(BestCheckpointer(1, DetectionCheckpointer(Model(), tmp_path), "none"), iterations=2)
    assert "no metric none" in caplog.text
    with pytest.raises(ConfigError, match="unknown mode of BestCheckpointer; got: best"):
        BestCheckpointer(1, None, "none", mode="best")  # type: ignore[arg-type]


def test_the_rate_of_the_largest_group_is_recorded_and_the_schedule_is_stepped() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = LRMultiplier(optimizer, lambda done: 1 - done, 4)
    hook = LRScheduler(optimizer, schedule)
    trainer = trained(hook)
    assert [rate for rate, _ in trainer.storage.history("lr").values()] == [1.0, 0.75, 0.5, 0.25]
    state = hook.state_dict()
    other = LRScheduler(optimizer, LRMultiplier(optimizer, lambda done: 1 - done, 4))
    other.load_state_dict(state)
    assert other.scheduler.last_epoch == 4


@pytest.mark.parametrize(
    ("period", "after", "iterations"), [(2, True, [1, 4]), (0, True, [4]), (2, False, [1]), (3, True, [2, 4])]
)
def test_evaluations_run_each_period_and_after_the_training(
    period: int, after: bool, iterations: list[int]
) -> None:
    trainer = trained(EvalHook(period, lambda: {"box": {"AP": 1.0}}, eval_after_train=after))
    assert [number for _, number in trainer.storage.history("box/AP").values()] == iterations


def test_an_evaluation_returns_numbers() -> None:
    with pytest.raises(ValueError, match=r"no numbers.*'name'"):
        trained(EvalHook(1, lambda: {"name": "text"}))


def test_statistics_of_batch_normalizations_are_means_over_batches() -> None:
    model = Model()
    trainer = SimpleTrainer(model, BATCHES, torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks([hooks.PreciseBN(0, model, BATCHES, 2)])
    trainer.train(0, 3)
    assert model.norm.running_mean.item() == pytest.approx((1 + 7) / 2)
    assert model.norm.running_var.item() == pytest.approx((2 + 18) / 2)
    assert model.norm.momentum == 0.1


def test_iterations_are_profiled(tmp_path: Path) -> None:
    trained(
        hooks.TorchProfiler(lambda trainer: trainer.iter == 1, str(tmp_path), save_tensorboard=False),
        hooks.AutogradProfiler(lambda trainer: trainer.iter == 2, str(tmp_path)),
        hooks.TorchMemoryStats(period=1),
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["profiler-trace-iter1.json", "profiler-trace-iter2.json"]
    assert json.loads((tmp_path / names[0]).read_text())["traceEvents"]
