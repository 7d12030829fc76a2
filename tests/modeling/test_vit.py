"""Plain vision transformer: windows, positions, and the pyramid over its one feature map."""

import pytest
import torch
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.modeling import SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate
from detexport.modeling.backbone.attention import (
    RelativePosition,
    absolute_positions,
    depth_rates,
    window_partition,
    window_unpartition,
)
from detexport.modeling.backbone.fpn import LastLevelMaxPool
from detexport.modeling.backbone.vit import Attention, Block


def randomize(module: nn.Module) -> nn.Module:
    """Give tables that start with zeros other values."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module.eval()


def small_vit(**changes: object) -> ViT:
    options = {"img_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2, "pretrain_img_size": 48}
    options |= {"window_size": 3, "window_block_indexes": [0], "use_rel_pos": True}
    return ViT(**{**options, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(6, 9), (7, 10), (1, 2)])
def test_windows_can_be_joined_again(size: tuple[int, int]) -> None:
    x = torch.rand(2, *size, 5)
    windows, rows, columns = window_partition(x, 3)
    assert windows.shape == (2 * rows * columns, 3, 3, 5)
    assert torch.equal(windows[0, 0, 0], x[0, 0, 0])
    assert torch.equal(window_unpartition(windows, rows, columns, *size), x)


def test_a_window_block_attends_within_each_window() -> None:
    block = randomize(Block(8, 2, window_size=2, use_rel_pos=True))
    x = torch.rand(1, 4, 6, 8)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1
    with torch.no_grad():
        different = (block(x) - block(changed)).abs().sum(dim=3)[0] > 0
    assert different[:2, :2].all()
    assert different.sum() == 4


def test_padded_tokens_take_part_as_the_bias() -> None:
    block = randomize(Block(8, 2, window_size=2))
    x = torch.rand(1, 1, 1, 8)
    with torch.no_grad():
        normed = block.norm1(x)
        padded = torch.zeros(1, 2, 2, 8)
        padded[:, :1, :1] = normed
        expected = x + block.attn(padded)[:, :1, :1]
        expected = expected + block.mlp(block.norm2(expected))
        torch.testing.assert_close(block(x), expected)


def test_attention_against_torch() -> None:
    attention = randomize(Attention(8, 2))
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    reference.in_proj_weight.data, reference.in_proj_bias.data = (
        attention.qkv.weight.data,
        attention.qkv.bias.data,
    )
    reference.out_proj = attention.proj
    x = torch.rand(2, 3, 4, 8)
    tokens = x.reshape(2, 12, 8)
    with torch.no_grad():
        expected, _ = reference(tokens, tokens, tokens)
        torch.testing.assert_close(attention(x).reshape(2, 12, 8), expected)


def expected_positions(table: Tensor, q_size: int, k_size: int) -> Tensor:
    """The definition, without resizing: for each pair the row of its distance."""
    q_scale, k_scale = max(k_size / q_size, 1), max(q_size / k_size, 1)
    rows = [[int(q * q_scale + (k_size - 1 - k) * k_scale) for k in range(k_size)] for q in range(q_size)]
    return table[torch.tensor(rows)]


@pytest.mark.parametrize(("q_size", "k_size", "strides"), [(4, 4, (1, 1)), (8, 2, (1, 4)), (3, 6, (2, 1))])
def test_relative_positions_by_their_definition(q_size: int, k_size: int, strides: tuple[int, int]) -> None:
    table = torch.rand(2 * max(q_size, k_size) - 1, 5)
    found = RelativePosition(*strides)(table, torch.zeros(q_size), torch.zeros(k_size))
    assert torch.equal(found, expected_positions(table, q_size, k_size))


def test_a_table_of_another_size_is_resized() -> None:
    table = torch.linspace(0, 6, 7)[:, None]
    found = RelativePosition()(table, torch.zeros(8), torch.zeros(8))
    resized = nn.functional.interpolate(table.t()[None], size=15, mode="linear")[0].t()
    assert torch.equal(found, expected_positions(resized, 8, 8))


def test_absolute_positions_leave_out_the_class_token() -> None:
    embedding = torch.rand(1, 10, 4)
    same = absolute_positions(embedding, True, torch.zeros(1, 3, 3, 4))
    assert torch.equal(same, embedding[:, 1:].reshape(1, 3, 3, 4))
    resized = absolute_positions(embedding[:, 1:], False, torch.zeros(1, 5, 2, 4))
    expected = nn.functional.interpolate(same.permute(0, 3, 1, 2), size=(5, 2), mode="bicubic")
    assert torch.equal(resized, expected.permute(0, 2, 3, 1))


def test_stochastic_depth_grows_with_the_block() -> None:
    assert depth_rates(0.2, 5) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    net = small_vit(drop_path_rate=0.9)
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(net.eval()(x)["last_feat"], net(x)["last_feat"])
    assert not torch.equal(net.train()(x)["last_feat"], net(x)["last_feat"])


def test_a_residual_block_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    plain = small_vit().eval()
    net = small_vit(residual_block_indexes=[1]).eval()
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[2] for name in missing} == {"residual"}
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(net(x)["last_feat"], plain(x)["last_feat"])


def test_recomputing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    nets = [small_vit(), small_vit(use_act_checkpoint=True)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        net(torch.ones(1, 3, 48, 48))["last_feat"].sum().backward()
    for first, second in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad)


def test_the_pyramid_declares_what_it_returns() -> None:
    pyramid = SimpleFeaturePyramid(
        small_vit(), "last_feat", 8, (4.0, 2.0, 1.0, 0.5), LastLevelMaxPool(), square_pad=96
    )
    assert pyramid.padding_constraints == {"square_size": 96}
    assert pyramid.size_divisibility == 0
    features = pyramid(torch.rand(1, 3, 70, 81))
    # 4 x 5 whole patches; what is left over is dropped.
    sizes = {"p2": (16, 20), "p3": (8, 10), "p4": (4, 5), "p5": (2, 2), "p6": (1, 1)}
    assert {name: tuple(value.shape[2:]) for name, value in features.items()} == sizes
    shapes = pyramid.output_shape()
    assert list(shapes) == list(features)
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32, 64]
    features["p6"].sum().backward()
    assert pyramid.net.patch_embed.proj.weight.grad is not None


def test_unsupported_levels() -> None:
    with pytest.raises(ConfigError, match=r"got: 3\.0; expected: 4, 2, 1 or 0\.5"):
        SimpleFeaturePyramid(small_vit(), "last_feat", 8, (3.0,))
    with pytest.raises(ConfigError, match="power of 2"):
        SimpleFeaturePyramid(small_vit(patch_size=14), "last_feat", 8, (1.0,))
    with pytest.raises(ConfigError, match="input_size"):
        Attention(8, 2, use_rel_pos=True)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 40)])
def test_a_trace_accepts_any_size(size: tuple[int, int]) -> None:
    pyramid = SimpleFeaturePyramid(randomize(small_vit()), "last_feat", 8, (4.0, 0.5)).eval()
    with torch.no_grad():
        traced = torch.jit.trace(pyramid, torch.rand(1, 3, 80, 112), check_trace=False, strict=False)
        x = torch.rand(1, 3, *size)
        for name, value in pyramid(x).items():
            assert torch.equal(traced(x)[name], value)


def test_layer_wise_decay() -> None:
    names = {
        "backbone.net.pos_embed": 0.5**4,
        "backbone.net.patch_embed.proj.weight": 0.5**4,
        "backbone.net.blocks.0.attn.qkv.weight": 0.5**3,
        "backbone.net.blocks.2.mlp.fc1.bias": 0.5,
        "backbone.net.blocks.0.residual.conv1.weight": 1.0,
        "backbone.simfp_2.0.weight": 1.0,
        "roi_heads.box_head.fc1.weight": 1.0,
    }
    assert {name: get_vit_lr_decay_rate(name, 0.5, num_layers=3) for name in names} == names
