"""Numbers of a model."""

import pytest
import torch
from torch import nn

from detexport.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    find_unused_parameters,
    flop_count_operators,
    parameter_count,
    parameter_count_table,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 64, 2)
        )
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        out = self.net(x)
        return {"loss": out.sum()} if self.training else out


def test_parameters() -> None:
    counts = parameter_count(Model())
    assert counts["net.0"] == counts["net.0.weight"] == 108
    assert counts["net"] == 108 + 514
    assert counts[""] == 108 + 514 + 6
    table = parameter_count_table(Model(), max_depth=1)
    assert table.splitlines() == [
        "| name | parameters |",
        "|:-----|-----------:|",
        *[
            "| model | 628 |",
            "| net | 622 |",
            "| unused | 6 |",
        ],
    ]


def test_operations_and_outputs() -> None:
    x, model = torch.zeros(1, 3, 8, 8), Model().eval()
    operations = flop_count_operators(model, x)
    assert sum(operations.values()) * 1e9 == pytest.approx(64 * 108 + 512)
    found = FlopCountAnalysis(model, x)
    assert found.total() == 64 * 108 + 512
    assert found.by_module()["net.0"] == found.total("net.0") == 64 * 108
    assert found.by_module_and_operator()["net"] == found.by_operator()
    outputs = activation_count_operators(model, x)
    assert {name: round(count * 1e6) for name, count in outputs.items()} == {
        "conv": 256,
        "linear": 2,
    }


def test_unused_parameters() -> None:
    model = Model().train()
    assert find_unused_parameters(model, torch.zeros(1, 3, 8, 8)) == ["unused.weight", "unused.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
