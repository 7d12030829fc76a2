"""Loops over iterations: the order of hooks, what is recorded, and what a checkpoint restores."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel

from detexport.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase, create_ddp_model


class Losses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, batch: Any) -> Any:
        return {"loss_a": (self.weight * batch).sum(), "loss_b": self.weight.sum()}


class Single(Losses):
    def forward(self, batch: Any) -> Any:
        return super().forward(batch)["loss_b"]


def trainer_of(model: nn.Module, kind: type[SimpleTrainer] = SimpleTrainer, **options: Any) -> SimpleTrainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return kind(model, [torch.ones(1), 2 * torch.ones(1)], optimizer, **options)


class Noting(HookBase):
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def before_train(self) -> None:
        self.notes.append(f"{self.name} before_train")

    def after_train(self) -> None:
        self.notes.append(f"{self.name} after_train {self.trainer.iter}")

    def before_step(self) -> None:
        self.notes.append(f"{self.name} before_step {self.trainer.storage.iter}")

    def after_backward(self) -> None:
        self.notes.append(f"{self.name} after_backward")

    def after_step(self) -> None:
        self.notes.append(f"{self.name} after_step {self.trainer.iter}")


def test_hooks_run_in_their_order_at_each_point() -> None:
    notes: list[str] = []
    trainer = trainer_of(Losses())
    trainer.register_hooks([Noting("a", notes), None, Noting("b", notes)])
    trainer.train(3, 5)
    step = [["before_step {}"] * 2, ["after_backward"] * 2, ["after_step {}"] * 2]
    expected = ["before_train"] * 2
    for number in (3, 4):
        expected += [one.format(number) for pair in step for one in pair]
    expected += ["after_train 5"] * 2
    assert notes == [f"{'ab'[index % 2]} {one}" for index, one in enumerate(expected)]


def test_a_training_that_fails_ends_with_after_train() -> None:
    notes: list[str] = []

    class Failing(TrainerBase):
        def run_step(self) -> None:
            raise OSError("broken")

    trainer = Failing()
    trainer.register_hooks([Noting("a", notes)])
    with pytest.raises(OSError, match="broken"):
        trainer.train(0, 3)
    assert notes[-1] == "a after_train 0"
    with pytest.raises(NotImplementedError, match="TrainerBase defines no run_step"):
        TrainerBase().run_step()


@pytest.mark.parametrize("before", [False, True])
def test_steps_and_recorded_losses(before: bool) -> None:
    model = Losses().eval()
    trainer = trainer_of(model, zero_grad_before_forward=before)
    trainer.train(0, 3)
    # Gradients 2, 3 and 2 (the loader starts again), with momentum 0.9.
    assert model.weight.item() == pytest.approx(2 - 0.1 * (2 + (3 + 1.8) + (2 + 0.9 * 4.8)))
    losses = trainer.storage.history("total_loss").values()
    assert [number for _, number in losses] == [0, 1, 2]
    assert losses[0][0] == pytest.approx(4)
    assert trainer.storage.history("loss_b").values()[1][0] == pytest.approx(1.8)
    assert trainer.storage.latest()["data_time"][0] >= 0


def test_losses_are_recorded_each_period_and_a_single_one_as_total_loss() -> None:
    trainer = trainer_of(Single(), gather_metric_period=2)
    trainer.train(0, 4)
    assert [number for _, number in trainer.storage.history("total_loss").values()] == [1, 3]


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    model = Losses()
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite at iteration 0"):
        trainer_of(model).train(0, 1)


def test_a_model_in_evaluation_mode_is_refused() -> None:
    trainer = trainer_of(Losses())
    trainer.model.eval()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        trainer.train(0, 1)


@pytest.mark.parametrize("kind", [SimpleTrainer, AMPTrainer])
def test_a_state_continues_the_training(kind: type[SimpleTrainer]) -> None:
    whole = trainer_of(Single(), kind)
    whole.train(0, 4)
    first = trainer_of(Single(), kind)
    first.train(0, 2)
    second = trainer_of(Single(), kind)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    assert second.iter == 2
    second.train(2, 4)
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict())


def test_mixed_precision_computes_in_its_type_and_records_its_scale() -> None:
    seen: list[torch.dtype] = []

    class Layer(nn.Linear):
        def forward(self, batch: Any) -> Any:
            found = super().forward(batch)
            seen.append(found.dtype)
            return found.float().sum()

    model = Layer(1, 1)
    trainer = trainer_of(model, AMPTrainer, precision=torch.bfloat16, log_grad_scaler=True)
    trainer.train(0, 1)
    assert seen == [torch.bfloat16]
    assert trainer.storage.latest()["[metric]grad_scaler"][0] == 1
    with pytest.raises(ValueError, match="one device"):
        trainer_of(DataParallel(model), AMPTrainer)


def test_one_process_needs_no_wrapper() -> None:
    model = Losses()
    assert create_ddp_model(model, broadcast_buffers=False) is model
