import torch
from torch import Tensor, nn

from detexport.layers import CNNBlockBase
from detexport.layers.alias_of import alias_of


class Scaled(nn.Module):
    factor_by_another_name = alias_of("factor")

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_an_alias_reads_and_sets_the_attribute_and_is_no_part_of_a_script() -> None:
    module = Scaled(2.0)
    module.factor_by_another_name = 3.0
    assert (module.factor, module.factor_by_another_name) == (3.0, 3.0)
    scripted = torch.jit.script(module)
    assert scripted(torch.ones(1)) == 3
    assert "another" not in scripted.code


def test_the_shape_of_a_block_can_be_set() -> None:
    block = CNNBlockBase(3, 8, 2)
    block.out_channels, block.stride = 16, 4
    assert (block.in_channels, block.out_channels, block.stride) == (3, 16, 4)
