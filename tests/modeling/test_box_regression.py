import math

import pytest
import torch
import torch.nn.functional as F

from detexport.modeling.box_regression import Box2BoxTransform, apply_deltas, smooth_l1_sum


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_round_trip(weights: tuple[float, float, float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 50, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + torch.rand(2, 50, 2, generator=generator) * 40 + 2], dim=2)
    transform = Box2BoxTransform(weights)
    deltas = transform.get_deltas(boxes[0], boxes[1])
    torch.testing.assert_close(transform.apply_deltas(deltas, boxes[0]), boxes[1], rtol=1e-4, atol=1e-3)


def test_by_hand() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    deltas = torch.tensor([[1.0, -5.0, 5 * math.log(2), 0.0]])
    moved = apply_deltas(deltas, box, [10.0, 10.0, 5.0, 5.0])
    # The centre goes from (5, 10) to (6, 0), the width from 10 to 20.
    torch.testing.assert_close(moved, torch.tensor([[-4.0, -10.0, 16.0, 10.0]]))


def test_several_boxes_from_one() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 6.0, 6.0]])
    deltas = torch.randn(2, 12)
    together = apply_deltas(deltas, boxes, [1.0] * 4)
    apart = [apply_deltas(deltas[:, 4 * k : 4 * k + 4], boxes, [1.0] * 4) for k in range(3)]
    assert torch.equal(together, torch.cat(apart, dim=1))
    assert apply_deltas(torch.zeros(0, 12), torch.zeros(0, 4), [1.0] * 4).shape == (0, 12)


def test_a_wild_delta_does_not_overflow() -> None:
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    moved = apply_deltas(torch.tensor([[0.0, 0.0, 1e5, 1e5]]), box, [1.0] * 4)
    torch.testing.assert_close(moved[0, 2] - moved[0, 0], torch.tensor(1000.0))


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
def test_smooth_l1(beta: float) -> None:
    prediction, target = torch.randn(2, 10, 4)
    kind = F.l1_loss if beta == 0 else F.smooth_l1_loss
    expected = kind(prediction, target, reduction="sum", **({} if beta == 0 else {"beta": beta}))
    torch.testing.assert_close(smooth_l1_sum(prediction, target, beta), expected)
    nothing = torch.zeros(0, 4, requires_grad=True)
    smooth_l1_sum(nothing, nothing, beta).backward()
