import pytest
import torch

from detexport.errors import ConfigError
from detexport.modeling.anchor_generator import (
    AnchorGrid,
    DefaultAnchorGenerator,
    RotatedAnchorGenerator,
    cell_anchors,
    tensor_anchors,
)
from detexport.structures import Boxes, RotatedBoxes


def test_cell_anchors_by_hand() -> None:
    # Sizes outside, ratios (height / width) inside; every anchor has the area size * size.
    expected = [[-8, -2, 8, 2], [-2, -8, 2, 8], [-16, -4, 16, 4], [-4, -16, 4, 16]]
    assert cell_anchors([8, 16], [0.25, 4]).tolist() == expected


def test_grid_by_hand() -> None:
    grid = AnchorGrid(sizes=[[4]], aspect_ratios=[[1.0]], strides=[8, 16], offset=0.5)
    first, second = grid([torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 1, 2)])
    assert first.tolist() == [[2, 2, 6, 6], [10, 2, 14, 6], [2, 10, 6, 14], [10, 10, 14, 14]]
    assert second.tolist() == [[6, 6, 10, 10], [22, 6, 26, 10]]


def test_an_offset_of_zero_starts_at_the_corner_and_anchors_of_a_cell_are_neighbours() -> None:
    grid = AnchorGrid(sizes=[2, 4], aspect_ratios=[1.0], strides=[10], offset=0.0)
    (anchors,) = grid([torch.zeros(1, 3, 1, 2)])
    assert grid.num_anchors == [2]
    assert anchors.tolist() == [[-1, -1, 1, 1], [-2, -2, 2, 2], [9, -1, 11, 1], [8, -2, 12, 2]]


def test_sizes_by_level() -> None:
    grid = AnchorGrid(sizes=[[2], [4]], aspect_ratios=[[0.5, 1.0]], strides=[4, 8], offset=0.0)
    assert [a[1].tolist() for a in grid([torch.zeros(1, 1, 1, 1)] * 2)] == [[-1, -1, 1, 1], [-2, -2, 2, 2]]
    assert not grid.state_dict()


def test_lists_that_do_not_fit_the_levels() -> None:
    with pytest.raises(ConfigError, match=r"ANCHOR_GENERATOR\.SIZES does not fit.*2 lists.*one list, or 3"):
        AnchorGrid(sizes=[[2], [4]], aspect_ratios=[[1.0]], strides=[4, 8, 16], offset=0.0)
    with pytest.raises(ConfigError, match="same number of anchors"):
        AnchorGrid(sizes=[[2], [4, 8]], aspect_ratios=[[1.0]], strides=[4, 8], offset=0.0)


def test_one_trace_serves_every_size() -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid = AnchorGrid(sizes=[[8], [16]], aspect_ratios=[[0.5, 2.0]], strides=[4, 8], offset=0.0)

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return torch.cat(self.grid([first, second]))

    module = Module()
    traced = torch.jit.trace(module, (torch.zeros(1, 2, 6, 4), torch.zeros(1, 2, 3, 2)))
    scripted = torch.jit.script(module)
    for size in ((1, 1), (7, 3), (2, 9)):
        maps = torch.zeros(1, 2, *size), torch.zeros(1, 2, size[1], size[0])
        assert torch.equal(traced(*maps), module(*maps))
        assert torch.equal(scripted(*maps), module(*maps))


def test_the_registered_generator_returns_the_same_anchors_as_boxes() -> None:
    options = {"sizes": [[8], [16]], "aspect_ratios": [[0.5, 2.0]], "strides": [4, 8], "offset": 0.5}
    generator, grid = DefaultAnchorGenerator(**options), AnchorGrid(**options)
    maps = [torch.zeros(1, 2, 3, 5), torch.zeros(1, 2, 2, 3)]
    assert generator.num_cell_anchors == generator.num_anchors == [2, 2]
    for boxes, tensor, module in zip(
        generator(maps), grid(maps), tensor_anchors(generator)(maps), strict=True
    ):
        assert isinstance(boxes, Boxes)
        assert torch.equal(boxes.tensor, tensor)
        assert torch.equal(module, tensor)
    assert type(tensor_anchors(generator)) is AnchorGrid
    assert torch.equal(
        DefaultAnchorGenerator.generate_cell_anchors([8], [0.5, 2.0]), cell_anchors([8], [0.5, 2])
    )


def test_a_generator_of_ones_own_may_return_boxes() -> None:
    class Shifted(DefaultAnchorGenerator):
        def forward(self, features: list[torch.Tensor]) -> list[Boxes]:
            return [Boxes(boxes.tensor + 1) for boxes in super().forward(features)]

    options = {"sizes": [[8]], "aspect_ratios": [[1.0]], "strides": [4], "offset": 0.0}
    (found,) = tensor_anchors(Shifted(**options))([torch.zeros(1, 1, 1, 2)])
    assert found.tolist() == [[-3, -3, 5, 5], [1, -3, 9, 5]]


def test_rotated_anchors_by_hand() -> None:
    """For each size, then each ratio, each angle."""
    generator = RotatedAnchorGenerator(
        sizes=[[4]], aspect_ratios=[[1.0, 4.0]], strides=[8], angles=[[-90, 0, 45]], offset=0.5
    )
    (anchors,) = generator([torch.zeros(1, 1, 1, 2)])
    assert generator.num_cell_anchors == [6]
    assert isinstance(anchors, RotatedBoxes)
    assert anchors.tensor[:6].tolist() == [
        *([4, 4, 4, 4, angle] for angle in (-90, 0, 45)),
        *([4, 4, 2, 8, angle] for angle in (-90, 0, 45)),
    ]
    assert anchors.tensor[6].tolist() == [12, 4, 4, 4, -90]
