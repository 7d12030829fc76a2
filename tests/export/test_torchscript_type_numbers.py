"""Types of a TorchScript file are counted in the order in which the model has them; nothing else changes."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from detexport.export.torchscript_file import save_reproducibly
from detexport.export.torchscript_type_numbers import take_plain_names

TEXT = "ä \n c__torch__ X"


def made() -> nn.Module:
    """The same module, of new types each time; those of the list's elements are written as text."""

    class Shift:
        def __init__(self, by: float) -> None:
            self.by = by

        def of(self, value: Tensor) -> Tensor:
            return value + self.by

    class Shifts(nn.Module):
        text: str
        shifts: list[Shift]

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2)])
            self.text = TEXT
            self.shifts = [Shift(1.0), Shift(2.0)]

        def forward(self, value: Tensor) -> Tensor:
            for layer in self.layers:
                value = layer(value)
            for shift in self.shifts:
                value = shift.of(value)
            return value

    torch.manual_seed(0)
    return Shifts()


def test_a_module_that_is_compiled_again_gives_the_same_bytes_and_computes_the_same(tmp_path: Path) -> None:
    torch.jit.script(made())  # takes the plain names of the types that only TorchScript knows
    image = torch.ones(1, 2)
    contents = []
    for name in ("first", "second"):
        module = made()
        take_plain_names(module)
        scripted = torch.jit.script(module)
        save_reproducibly(scripted, tmp_path / name)
        loaded = torch.jit.load(tmp_path / name)
        assert torch.equal(loaded(image), scripted(image))
        assert torch.equal(loaded(image), module(image))
        assert loaded.text == TEXT
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert re.search(rb"List\[__torch__.*mangle_\d+\.Shift\]", contents[0])
