"""Retries without GPU memory, seeds, and callables that are pickled."""

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from detexport.errors import ConfigError
from detexport.utils.collect_env import collect_env_info
from detexport.utils.env import seed_all_rng, setup_environment
from detexport.utils.memory import retry_if_cuda_oom
from detexport.utils.serialize import PicklableWrapper


def test_the_third_call_runs_on_the_cpu() -> None:
    calls = []

    def function(x: torch.Tensor, scale: float) -> torch.Tensor:
        calls.append(x.device.type)
        if len(calls) < 3:
            raise torch.cuda.OutOfMemoryError("no memory")
        return x * scale

    assert retry_if_cuda_oom(function)(torch.ones(2), scale=3).tolist() == [3, 3]
    assert len(calls) == 3
    with pytest.raises(ZeroDivisionError):
        retry_if_cuda_oom(lambda: 1 / 0)()


def test_all_generators_are_seeded() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    setup_environment()
    seed_all_rng(7)
    first = draw()
    seed_all_rng(7)
    assert draw() == first
    seed_all_rng()
    assert draw() != first


def test_a_lambda_is_pickled() -> None:
    offset = 3
    wrapped = PicklableWrapper(PicklableWrapper(lambda value: value + offset))
    again = pickle.loads(pickle.dumps(wrapped))
    assert again(4) == 7


def test_the_versions_of_this_machine() -> None:
    assert torch.__version__ in collect_env_info()


def test_a_callable_object_is_retried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        calls = 0

        def __call__(self) -> int:
            self.calls += 1
            if self.calls < 3:
                raise torch.cuda.OutOfMemoryError
            return self.calls

    assert retry_if_cuda_oom(Failing())() == 3


def test_the_module_of_the_environment_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "environment.py"
    file.write_text("import os\ndef setup_environment():\n    os.environ['WAS_SET_UP'] = 'yes'\n")
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", str(file))
    monkeypatch.setenv("WAS_SET_UP", "no")
    setup_environment()
    assert os.environ["WAS_SET_UP"] == "yes"
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "json")
    with pytest.raises(ConfigError, match="DETECTRON2_ENV_MODULE=json"):
        setup_environment()
