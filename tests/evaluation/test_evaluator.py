"""The run of a model over a loader, and several evaluators as one."""

from typing import Any

import pytest
import torch
from torch import nn

from detexport.evaluation import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset


class Sum(DatasetEvaluator):
    def __init__(self, task: str) -> None:
        self.task, self.total = task, 99.0

    def reset(self) -> None:
        self.total = 0.0

    def process(self, inputs: Any, outputs: Any) -> None:
        self.total += sum(outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {self.task: {"sum": self.total}}


class Model(nn.Module):
    def forward(self, inputs: list[float]) -> list[float]:
        assert not self.training
        assert not torch.is_grad_enabled()
        return [2 * value for value in inputs]


def test_all_batches_are_evaluated_and_the_mode_is_restored() -> None:
    model, calls = Model().train(), []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: lambda name=name: calls.append(name) for name in names}
    results = inference_on_dataset(model, [[1.0], [2.0, 3.0]], [Sum("a"), Sum("b")], callbacks)
    assert results == {"a": {"sum": 12}, "b": {"sum": 12}}
    assert model.training
    assert calls == ["on_start", *["before_inference", "after_inference"] * 2, "on_end"]
    assert inference_on_dataset(model, [[1.0]], None) == {}
    assert inference_on_dataset(lambda inputs: inputs, [[1.0]], Sum("c")) == {"c": {"sum": 1}}


def test_two_evaluators_of_one_task_are_refused() -> None:
    with pytest.raises(ValueError, match="the task a"):
        DatasetEvaluators([Sum("a"), Sum("a")]).evaluate()
    with pytest.raises(ValueError, match="unknown callbacks"):
        inference_on_dataset(Model(), [], None, {"after": print})


def test_the_mode_is_restored_after_an_error() -> None:
    model = Model().train()
    with pytest.raises(ZeroDivisionError), inference_context(model):
        raise ZeroDivisionError
    assert model.training
