"""Layers under the names that extensions use."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport import layers
from detexport.layers import Conv2d, get_norm


def test_a_convolution_has_torchs_bias_then_its_norm_and_activation() -> None:
    conv = Conv2d(3, 4, 3, padding=1, norm=get_norm("FrozenBN", 4), activation=F.relu)
    x = torch.randn(2, 3, 5, 5)
    nn.init.ones_(conv.bias)
    assert set(conv.state_dict()) == {
        "weight",
        "bias",
        *(f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    }
    expected = F.relu(conv.norm(F.conv2d(x, conv.weight, conv.bias, padding=1)))
    assert torch.equal(conv(x), expected)
    assert Conv2d(3, 4, 1, bias=False, norm=get_norm("BN", 4)).bias is None


@pytest.mark.parametrize("activation", [None, F.relu, nn.GELU()])
def test_a_convolution_is_scripted(activation: object) -> None:
    conv = Conv2d(3, 4, 3, activation=activation).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(torch.jit.script(conv)(x), conv(x))


def test_cat_of_one_tensor_is_the_tensor() -> None:
    x = torch.randn(2, 3)
    assert layers.cat([x]) is x
    assert torch.equal(layers.cat([x, x], dim=1), torch.cat([x, x], dim=1))


def test_nonzero_tuple_is_an_index() -> None:
    x = torch.tensor([[0, 1], [2, 0]])
    rows, columns = layers.nonzero_tuple(x)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert x[layers.nonzero_tuple(x > 5)].tolist() == []


def test_the_mean_loss_over_nothing_is_0_with_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = layers.cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    some, target = torch.randn(3, 5), torch.tensor([0, 4, 2])
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(some, target, reduction=reduction)
        assert torch.equal(layers.cross_entropy(some, target, reduction=reduction), expected)
    assert layers.empty_input_loss_func_wrapper(F.l1_loss)(logits, logits).item() == 0


def test_sizes_stay_symbolic_in_a_trace() -> None:
    def area(x: Tensor) -> Tensor:
        return layers.shapes_to_tensor(x.shape[-2:]).prod()

    traced = torch.jit.trace(area, torch.zeros(2, 3))
    assert traced(torch.zeros(4, 5)).item() == 20
    assert layers.shapes_to_tensor([4, 5]).tolist() == [4, 5]


def test_move_device_like() -> None:
    moved = layers.move_device_like(torch.arange(3), torch.zeros(1, dtype=torch.float64))
    assert moved.dtype == torch.int64
    traced = torch.jit.trace(layers.move_device_like, (torch.arange(3), torch.zeros(1)))
    assert traced(torch.arange(4), torch.zeros(1)).tolist() == [0, 1, 2, 3]
    assert 'value="cpu"' not in str(traced.graph)


def test_the_losses_of_overlap_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    for loss in (layers.ciou_loss, layers.diou_loss):
        assert loss(boxes, boxes).item() == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[2.0, 0.0, 4.0, 2.0]])
    # No overlap; the centres are 2 apart, and the diagonal of both is sqrt(20); the shapes are equal.
    assert layers.diou_loss(boxes, apart, reduction="sum").item() == pytest.approx(1 + 4 / 20)
    assert layers.ciou_loss(boxes, apart, reduction="mean").item() == pytest.approx(1 + 4 / 20)
