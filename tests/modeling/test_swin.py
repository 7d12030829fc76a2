"""Swin transformer: shifted windows and what they must not connect."""

import pytest
import torch
from torch import nn

from detexport.modeling import SwinTransformer
from detexport.modeling.backbone.swin import (
    MASKED,
    PatchMerging,
    SwinTransformerBlock,
    relative_position_index,
    shift_mask,
)


def small_swin(**changes: object) -> SwinTransformer:
    options = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 3, "out_indices": (0, 1)}
    return SwinTransformer(**{**options, **changes})  # type: ignore[arg-type]


def test_the_mask_connects_what_was_connected_before_the_shift() -> None:
    size, shift = 3, 1
    shifted = torch.zeros(1, 6, 9, 1)
    mask = shift_mask(shifted, size, shift)
    assert mask.shape == (2 * 3, 9, 9)
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")
    # Where each token of the shifted map was before: neighbours in a window stay within a window's distance.
    before = torch.stack(((rows + shift) % 6, (columns + shift) % 9), dim=2)
    windows = before.reshape(2, size, 3, size, 2).permute(0, 2, 1, 3, 4).reshape(6, 9, 2)
    apart = ((windows[:, :, None] - windows[:, None]).abs() >= size).any(dim=3)
    assert torch.equal(mask, torch.where(apart, MASKED, 0.0))


def test_index_of_biases() -> None:
    index = relative_position_index(3)
    assert index.shape == (9, 9)
    assert (index.diagonal() == 12).all()
    assert index[0, 8] == 0
    assert index[8, 0] == 24
    assert index[0, 1] + 1 == index[1, 1]


def test_merging_takes_each_square_column_by_column() -> None:
    merging = PatchMerging(1)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    x = torch.arange(6.0).reshape(1, 2, 3, 1)
    assert merging(x).tolist() == [[[[0, 3, 1, 4], [2, 5, 0, 0]]]]


def test_a_shifted_block_reaches_the_neighbouring_windows() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 6, 6, 8)
    changed = x.clone()
    changed[0, 2, 2, 0] += 1
    reached = []
    for shift in (0, 1):
        block = SwinTransformerBlock(8, 2, window_size=3, shift_size=shift).eval()
        with torch.no_grad():
            reached.append(((block(x) - block(changed)).abs().sum(dim=3)[0] > 0).nonzero())
    assert reached[0].min(dim=0).values.tolist() == [0, 0]
    assert reached[0].max(dim=0).values.tolist() == [2, 2]
    assert reached[1].min(dim=0).values.tolist() == [1, 1]
    assert reached[1].max(dim=0).values.tolist() == [3, 3]


def test_feature_maps_and_their_shapes() -> None:
    net = small_swin(ape=True, pretrain_img_size=32)
    features = net(torch.rand(1, 3, 37, 50))
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "p0": (1, 8, 10, 13),
        "p1": (1, 16, 5, 7),
    }
    assert {name: (one.channels, one.stride) for name, one in net.output_shape().items()} == {
        "p0": (8, 4),
        "p1": (16, 8),
    }
    sum(value.sum() for value in features.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert "layers.0.blocks.0.attn.relative_position_index" in net.state_dict()


def test_frozen_stages_stay_in_evaluation_mode() -> None:
    net = small_swin(frozen_stages=2, ape=True).train()
    assert not net.patch_embed.training
    assert not net.layers[0].training
    assert net.layers[1].training
    trained = {name.split(".")[0] for name, one in net.named_parameters() if one.requires_grad}
    assert trained == {"layers", "norm0", "norm1"}
    assert all(one.requires_grad for one in small_swin(frozen_stages=-1).parameters())


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 40)])
def test_a_trace_accepts_any_size(size: tuple[int, int]) -> None:
    net = small_swin().eval()
    with torch.no_grad():
        traced = torch.jit.trace(net, torch.rand(1, 3, 80, 112), check_trace=False, strict=False)
        x = torch.rand(1, 3, *size)
        for name, value in net(x).items():
            assert torch.equal(traced(x)[name], value)
