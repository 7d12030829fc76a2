import math

import pytest
import torch
import torch.nn.functional as F

from detexport.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    Box2BoxTransformRotated,
    apply_deltas,
    box_loss_sum,
    decoding_weights,
    smooth_l1_sum,
)


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


def by_hand(kind: str, a: list[float], b: list[float]) -> float:
    """The loss of one box by the papers' formulas."""
    intersection = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    (wa, ha), (wb, hb) = ((box[2] - box[0], box[3] - box[1]) for box in (a, b))
    union = wa * ha + wb * hb - intersection
    iou = intersection / union
    width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    if kind == "giou":
        return 1 - iou + (width * height - union) / (width * height)
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    loss = 1 - iou + distance / (width**2 + height**2)
    if kind == "ciou":
        v = 4 / math.pi**2 * (math.atan(wb / hb) - math.atan(wa / ha)) ** 2
        loss += v / (1 - iou + v + 1e-7) * v
    return loss


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_losses_of_overlap_are_those_of_the_decoded_boxes(kind: str) -> None:
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 30], [5, 5, 9, 25]])
    predicted = torch.tensor([[1.0, 2, 12, 9], [50, 60, 70, 95], [5, 5, 9, 25]])
    truth = torch.tensor([[0.0, 0, 8, 12], [20, 22, 38, 31], [5, 5, 9, 25]])
    deltas = transform.get_deltas(anchors, predicted).requires_grad_()
    loss = box_loss_sum(deltas, anchors, truth, transform, loss_type=kind, smooth_l1_beta=0.0)
    expected = sum(by_hand(kind, a, b) for a, b in zip(predicted.tolist(), truth.tolist(), strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert deltas.grad is not None
    assert (deltas.grad[:2] != 0).any(dim=1).all()
    nothing = torch.zeros(0, 4, requires_grad=True)
    empty = box_loss_sum(nothing, nothing, nothing, transform, loss_type=kind, smooth_l1_beta=0.0)
    assert empty.item() == 0


def test_smooth_l1_is_of_the_differences() -> None:
    transform = Box2BoxTransform((1.0, 2.0, 3.0, 4.0))
    anchors, truth = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[2.0, 2, 10, 14]])
    deltas = torch.randn(1, 4)
    loss = box_loss_sum(deltas, anchors, truth, transform, loss_type="smooth_l1", smooth_l1_beta=0.5)
    assert torch.equal(loss, smooth_l1_sum(deltas, transform.get_deltas(anchors, truth), 0.5))


def test_rotated_deltas_by_hand() -> None:
    """A shift of half the size, twice the width, a turn over the end of the range of angles."""
    transform = Box2BoxTransformRotated((1.0, 1.0, 1.0, 1.0, 2.0))
    source = torch.tensor([[10.0, 20.0, 4.0, 8.0, 170.0]])
    target = torch.tensor([[12.0, 24.0, 8.0, 8.0, -170.0]])
    deltas = transform.get_deltas(source, target)
    expected = torch.tensor([[0.5, 0.5, math.log(2), 0.0, 2 * math.radians(20)]])
    torch.testing.assert_close(deltas, expected)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target)


def test_rotated_deltas_of_several_classes_and_their_bounds() -> None:
    transform = Box2BoxTransformRotated((10.0, 10.0, 5.0, 5.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(6, 5, generator=generator) * 50 + 1
    boxes[:, 4] = boxes[:, 4] * 7 - 180
    targets = boxes.flip(0)
    deltas = torch.cat([transform.get_deltas(boxes, targets), torch.zeros(6, 5)], dim=1)
    decoded = transform.apply_deltas(deltas, boxes).view(6, 2, 5)
    for found, wanted in ((decoded[:, 0], targets), (decoded[:, 1], boxes)):
        torch.testing.assert_close(found[:, :4], wanted[:, :4], rtol=1e-4, atol=1e-3)
        turn = (found[:, 4] - wanted[:, 4] + 180) % 360 - 180
        assert turn.abs().max() < 1e-3
        assert ((found[:, 4] >= -180) & (found[:, 4] < 180)).all()
    huge = transform.apply_deltas(torch.full((1, 5), 100.0), torch.tensor([[0.0, 0, 1, 1, 0]]))
    torch.testing.assert_close(huge[0, 2], torch.tensor(1000 / 16))


@pytest.mark.parametrize(("normalize", "unit"), [(True, 4.0), (False, 1.0)])
def test_linear_deltas_are_distances_from_the_centre(normalize: bool, unit: float) -> None:
    transform = Box2BoxTransformLinear(normalize_by_size=normalize)
    source, target = torch.tensor([[8.0, 8.0, 12.0, 12.0]]), torch.tensor([[2.0, 9.0, 18.0, 30.0]])
    deltas = transform.get_deltas(source, target)
    torch.testing.assert_close(deltas, torch.tensor([[8.0, 1.0, 8.0, 20.0]]) / unit)
    torch.testing.assert_close(transform.apply_deltas(deltas.repeat(1, 2), source), target.repeat(1, 2))
    negative = transform.apply_deltas(-deltas, source)
    assert negative.tolist() == [[10, 10, 10, 10]]


def test_another_clamp_is_honoured() -> None:
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0), scale_clamp=math.log(2))
    decoded = transform.apply_deltas(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[-1.0, -1, 1, 1]]))
    torch.testing.assert_close(decoded, torch.tensor([[-2.0, -2, 2, 2]]))
    assert decoding_weights(transform) == []
