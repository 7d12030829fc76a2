"""The state of a training in a file, from which it continues exactly where it was."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detexport.errors import CheckpointError
from detexport.system.atomic import atomic_file

Gather = Callable[[Any], list[Any]]
Broadcast = Callable[[Any], Any]

Measured = tuple[int, dict[str, float]]
"""A number of steps, and the values that were measured after them."""


@dataclass
class BestWeights:
    """The best evaluation so far.

    Args:
        value: its task metric.
        evaluations: number of evaluations since then.
        weights: the evaluated weights.
    """

    value: float = -1.0
    evaluations: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, value: float, weights: dict[str, Tensor]) -> None:
        """Keep the weights of an evaluation if it is a new best one."""
        if value > self.value:
            self.value, self.evaluations = value, 0
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        else:
            self.evaluations += 1


@dataclass
class TrainingState:
    """All that the rest of a training depends on.

    Args:
        model: the model.
        optimizer: its optimizer.
        average: the moving average of its weights, if there is one.
        precision: Lightning's precision plugin, which scales the gradients of float16.
        step: number of steps that are done.
        best: the best evaluation.
        finished: whether the training has ended early.
        measured: what is not logged yet.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    precision: Any
    step: int = 0
    best: BestWeights = field(default_factory=BestWeights)
    finished: bool = False
    measured: list[Measured] = field(default_factory=list)

    def save(self, path: Path, key: str, *, gather: Gather, writes: bool) -> None:
        """Write the state atomically; all processes of a training call it.

        Args:
            path: the file.
            key: digest of what determines the training.
            gather: collects a value of each process, by rank.
            writes: whether this process writes the file.
        """
        generators = gather(_generator_states())
        if not writes:
            return
        values = {
            "key": key,
            "step": self.step,
            "finished": self.finished,
            "model": self.model.state_dict(),
            "numbers": _numbers(self.model),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.precision.state_dict(),
            "best": vars(self.best),
            "measured": self.measured,
            "generators": generators,
        }
        with atomic_file(path) as temporary:
            torch.save(values, temporary)

    def load(self, path: Path, key: str, *, rank: int, world_size: int, broadcast: Broadcast) -> bool:
        """Continue from a file; return whether it exists and is of the same training.

        All processes of a training call it. The first one reads the file, since others may run on machines
        that do not have it.

        Args:
            path: the file.
            key: digest of what determines the training.
            rank: index of this process.
            world_size: number of processes.
            broadcast: returns the value of the first process in all of them.

        Raises:
            CheckpointError: the file cannot be read, or was written by another number of processes.
        """
        values = broadcast(_read_state(path) if rank == 0 else None)
        if isinstance(values, CheckpointError):
            raise values
        if values is None or values["key"] != key:
            return False
        if len(values["generators"]) != world_size:
            raise CheckpointError(
                "the training was started with another number of processes",
                got=f"{world_size} processes",
                expected=f"{len(values['generators'])} processes",
                remedy=f"use as many devices as before, or remove {path} to start from the beginning",
            )
        self._restore(values)
        _restore_generators(values["generators"][rank])
        return True

    def _restore(self, values: Mapping[str, Any]) -> None:
        self.step, self.finished, self.measured = values["step"], values["finished"], values["measured"]
        self.model.load_state_dict(values["model"])
        for name, module in self.model.named_modules():
            vars(module).update(values["numbers"].get(name, {}))
        self.optimizer.load_state_dict(values["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(values["average"])
        self.precision.load_state_dict(values["precision"])
        self.best = BestWeights(**values["best"])


def _read_state(path: Path) -> dict[str, Any] | CheckpointError | None:
    """Return the values in a file, None without one, or the error, which all processes then raise."""
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return values
    except Exception as error:  # the errors for broken files are not documented
        return CheckpointError(
            "the state of a training cannot be read",
            got=f"{path}: {type(error).__name__}: {error}",
            expected="a file that this training wrote",
            remedy="remove the file; the training then starts from the beginning",
        )


def _numbers(model: nn.Module) -> dict[str, dict[str, float]]:
    """Return the numbers that modules keep as plain attributes, such as RetinaNet's loss normalizer."""
    found = {
        name: {key: value for key, value in vars(module).items() if type(value) in (int, float)}
        for name, module in model.named_modules()
    }
    return {name: numbers for name, numbers in found.items() if numbers}


def _generator_states() -> dict[str, Any]:
    """Return the states of the generators of Python, numpy and torch in this process, as plain values."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_generators(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    _restore_cuda(states["cuda"])


def _restore_cuda(states: Iterable[Tensor]) -> None:
    for device, state in enumerate(states):
        torch.cuda.set_rng_state(state, device)
