"""Another rounding of a model: equal scores in any order, everything else as it is."""

from typing import Any

import pytest
import torch

from detexport.layers import nms_per_class
from detexport.parity.perturbed_eager import NOISE, AnyOrder, rounded


def test_of_equal_values_any_are_chosen_and_no_other() -> None:
    values = torch.tensor([1.0, 3.0, 1.0, 1.0, 2.0, 1.0])
    chosen = set()
    for seed in range(20):
        with AnyOrder(seed):
            best, places = values.topk(3)
        assert best.tolist() == [3.0, 2.0, 1.0]
        assert values[places].tolist() == best.tolist()
        chosen.add(int(places[2]))
    assert chosen == {0, 2, 3, 5}


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_each_row_keeps_its_own_values(dim: int) -> None:
    values = torch.arange(12.0).reshape(3, 4)
    with AnyOrder(0):
        best, places = values.topk(2, dim=dim)
        ordered, order = values.sort(dim=dim, descending=True)
    torch.testing.assert_close(best, values.topk(2, dim=dim).values)
    torch.testing.assert_close(values.gather(dim, places), best)
    torch.testing.assert_close(values.gather(dim, order), ordered)


def test_of_equal_boxes_any_suppresses_the_others() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [50.0, 0.0, 60.0, 10.0]])
    kept = set()
    for seed in range(10):
        with AnyOrder(seed):
            kept.add(tuple(sorted(nms_per_class(boxes, torch.ones(3), torch.zeros(3).long(), 0.5).tolist())))
    assert kept == {(0, 2), (1, 2)}


def test_integers_keep_their_order() -> None:
    values = torch.tensor([1, 1, 0, 1])
    with AnyOrder(3):
        assert values.sort(stable=True).indices.tolist() == [2, 0, 1, 3]


def test_pixels_move_by_their_rounding_and_the_same_every_time() -> None:
    seen: list[torch.Tensor] = []

    def net(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen.append(examples[0]["image"])
        return examples

    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    for seed in (1, 1, 2):
        with rounded(seed)(net) as other:  # type: ignore[arg-type]
            other([{"image": image, "height": 8, "width": 8}])
    assert 0 < (seen[0] - 100).abs().max() < 10 * NOISE
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert image.dtype == torch.uint8
