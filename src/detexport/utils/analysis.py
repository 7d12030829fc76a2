"""Numbers of a model: parameters, operations, unused parameters."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each module and parameter by name; ``""`` is the model."""
    counts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        for end in range(len(parts) + 1):
            counts[".".join(parts[:end])] += parameter.numel()
    return dict(counts)


def parameter_count_table(model: nn.Module, max_depth: int = 3) -> str:
    """Return a table in Markdown of the modules and parameters down to ``max_depth``, with their counts."""
    rows = ["| name | parameters |", "|:-----|-----------:|"]
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, count in parameter_count(model).items():
        if name.count(".") < max_depth:
            value = str(shapes[name]) if name in shapes else f"{count:,}"
            rows.append(f"| {name or 'model'} | {value} |")
    return "\n".join(rows)


def flop_count_operators(model: nn.Module, inputs: Any) -> dict[str, float]:
    """Return the multiply-adds in 10^9 by operator, for one run of a model on ``inputs``.

    Args:
        model: in evaluation mode.
        inputs: a batch as the model takes it.
    """
    found = FlopCountAnalysis(model, (inputs,)).by_operator()
    return {operator: count / 1e9 for operator, count in found.items()}


class FlopCountAnalysis:
    """Multiply-adds of one run of a model in evaluation mode, by operator and by module.

    Args:
        model: the model.
        inputs: a batch as the model takes it, or a tuple of its arguments.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*arguments)
        root = type(model).__name__
        # torch counts a multiplication and an addition as two operations.
        self._counts = {
            name.removeprefix(root).removeprefix("."): {
                str(operator).removeprefix("aten."): count // 2 for operator, count in operators.items()
            }
            for name, operators in counter.get_flop_counts().items()
            if name != "Global"
        }

    def total(self, module_name: str = "") -> int:
        """Return the number of a module; ``""`` is the model."""
        return sum(self.by_operator(module_name).values())

    def by_operator(self, module_name: str = "") -> dict[str, int]:
        """Return the numbers of a module by operator."""
        return dict(self._counts.get(module_name, {}))

    def by_module(self) -> dict[str, int]:
        """Return the number of each module by its name."""
        return {name: self.total(name) for name in self._counts}

    def by_module_and_operator(self) -> dict[str, dict[str, int]]:
        """Return the numbers of each module by its name and by operator."""
        return {name: self.by_operator(name) for name in self._counts}


def activation_count_operators(model: nn.Module, inputs: Any) -> dict[str, float]:
    """Return the numbers of outputs in 10^6 by kind of layer: convolutions and linear layers.

    Args:
        model: in evaluation mode.
        inputs: a batch as the model takes it.
    """
    counts: dict[str, float] = defaultdict(float)
    kinds = {nn.Conv1d: "conv", nn.Conv2d: "conv", nn.ConvTranspose2d: "conv", nn.Linear: "linear"}

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        kind = next(name for type_, name in kinds.items() if isinstance(module, type_))
        counts[kind] += output.numel() / 1e6

    hooks = [
        module.register_forward_hook(count) for module in model.modules() if isinstance(module, tuple(kinds))
    ]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return dict(counts)


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Return the names of the parameters that get no gradient from the losses of a model on ``inputs``.

    Args:
        model: in training mode; its gradients are lost.
        inputs: a batch with ground truth.
    """
    for parameter in model.parameters():
        parameter.grad = None
    losses = model(inputs)
    total: Any = sum(losses.values()) if isinstance(losses, dict) else losses
    total.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    for parameter in model.parameters():
        parameter.grad = None
    return unused
